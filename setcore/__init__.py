"""setcore: the floor that braincl and vat3d stand on.

A set-transformer core (`attention`, `blocks`), model folders that hold no pickles (`checkpoint`, `model_lookup`), the
frame of training loops (`training`), scores (`evaluation`), and the habits that both packages share: typed errors
(`errors`), atomic files (`files`), seeds that are arguments (`seeding`), command lines alike (`cli`).
"""

from setcore.errors import InputError

__all__ = ["InputError"]
