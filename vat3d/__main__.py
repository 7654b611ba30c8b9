"""``python -m vat3d``: the command `vat3d`."""

import sys

from vat3d.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
