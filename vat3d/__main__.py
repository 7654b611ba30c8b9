"""``python -m vat3d``, and the command `vat3d`."""

import sys

from setcore.signals import catch_signals


def main() -> int:
    """Run the command with the arguments of the process.

    Returns
    -------
    int
        Exit status.
    """
    catch_signals("vat3d")  # before what takes longer is imported
    from vat3d.cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
