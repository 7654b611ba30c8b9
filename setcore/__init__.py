"""setcore: the floor that braincl and vat3d stand on.

One set-transformer core (`attention`, `blocks`), evaluation utilities (`metrics`, `bootstrap`, `mesh_metrics`), and the
habits both packages share: typed errors, atomic files, checkpoints that hold no pickles, seeds that are arguments.
"""

from setcore.errors import InputError

__all__ = ["InputError"]
