"""vat3d: a variational 3D tokenizer. A mesh into a few hundred bytes, and back.

Names are loaded when first used, so that ``import vat3d`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from setcore.package import lazy_exports

if TYPE_CHECKING:  # for type checkers and editors; the table below is what runs
    from vat3d.bitstream.stream import TokenStream as TokenStream
    from vat3d.errors import CodecError as CodecError
    from vat3d.errors import DatasetError as DatasetError
    from vat3d.errors import MeshError as MeshError
    from vat3d.generation.generator import MeshGenerator as MeshGenerator
    from vat3d.mesh.compare import evaluate as evaluate
    from vat3d.tokenizer import MeshTokenizer as MeshTokenizer

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "CodecError": "vat3d.errors",
        "DatasetError": "vat3d.errors",
        "MeshError": "vat3d.errors",
        "MeshGenerator": "vat3d.generation.generator",
        "MeshTokenizer": "vat3d.tokenizer",
        "TokenStream": "vat3d.bitstream.stream",
        "evaluate": "vat3d.mesh.compare",
    },
)
