"""``python -m braincl``, and the command `braincl`."""

import sys

from setcore.signals import catch_signals


def main() -> int:
    """Run the command with the arguments of the process.

    Returns
    -------
    int
        Exit status.
    """
    catch_signals("braincl")  # before what takes longer is imported
    from braincl.cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
