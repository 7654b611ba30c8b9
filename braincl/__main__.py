"""``python -m braincl``: the command `braincl`."""

import sys

from braincl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
