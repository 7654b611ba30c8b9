"""vat3d: a variational 3D tokenizer. A mesh into a few hundred bytes, and back.

Names are loaded when first used, so that ``import vat3d`` stays quick.
"""

from __future__ import annotations

from setcore.lazy import lazy_exports

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
