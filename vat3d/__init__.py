"""vat3d: a variational 3D tokenizer. A mesh into a few hundred bytes, and back."""

from vat3d.bitstream.stream import TokenStream
from vat3d.errors import CodecError, DatasetError, MeshError
from vat3d.mesh.compare import evaluate
from vat3d.tokenizer import MeshTokenizer

__all__ = ["CodecError", "DatasetError", "MeshError", "MeshTokenizer", "TokenStream", "evaluate"]
