"""`MeshTokenizer`: meshes to token streams and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vat3d.bitstream.stream import TokenStream, read_model_id
from vat3d.bitstream.token_model import TokenModel, embedded_model
from vat3d.codec.decode import StreamDecoder, decode_stream
from vat3d.codec.encode import EncodeOptions, encode_mesh
from vat3d.errors import CodecError
from vat3d.mesh.decimate import decimate
from vat3d.mesh.isosurface import Field
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.precision import check_precision
from vat3d.placement.mirrored_view import MirroredView
from vat3d.pretrained import load_pretrained

if TYPE_CHECKING:
    import trimesh


class MeshTokenizer:
    """Encodes meshes into token streams of a few hundred bytes and decodes them.

    Parameters
    ----------
    network : CodecNetwork
        Frozen.
    model : TokenModel
        Its tables and id.
    facts : dict, optional
        What is known of the training, for `info`.
    precision : {"auto", "float32", "bfloat16"}
        Of matrix products in refinement. "auto" is bfloat16 where the processor multiplies in it, else float32.

    Raises
    ------
    InputError
        The precision is unknown.
    """

    def __init__(
        self, network: CodecNetwork, model: TokenModel, facts: dict[str, Any] | None = None, precision: str = "auto"
    ) -> None:
        self.network = network
        self.model = model
        self.facts = facts or {}
        self.precision = check_precision(precision)

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path | None = None, precision: str = "auto") -> MeshTokenizer:
        """A tokenizer with trained weights.

        Parameters
        ----------
        path_or_name : path or str, optional
            A model folder, the name or id of an embedded model, or (None) the embedded default.
        precision : {"auto", "float32", "bfloat16"}

        Returns
        -------
        MeshTokenizer

        Raises
        ------
        CodecError, CheckpointError
            There is no such model, or its folder is damaged.
        """
        return cls(*load_pretrained(path_or_name), precision)

    def encode(
        self,
        mesh: Any,
        max_bytes: int = 512,
        effort: str = "normal",
        seed: int = 0,
        *,
        fill: str | None = None,
        min_f_score: float | None = None,
        time_limit: float | None = None,
        progress: bool | None = None,
    ) -> TokenStream:
        """Encode a mesh into a file of at most `max_bytes`.

        Parameters
        ----------
        mesh : path, trimesh.Trimesh, trimesh.Scene or (vertices, faces)
            Open sheets become shells of stated thickness, made flat again in decoding; what is thinner than .016
            half-sides in closed parts is thickened. What stands askew is turned, and of shapes that are nearly their
            own mirror image one half is encoded. Colours and textures are dropped. `report` says so.
        max_bytes : int
            Size of the file, header included.
        effort : {"fast", "normal", "best"}
            One forward pass, or also a fixed number of refinement steps (up to about 20 s and 60 s on two cores), whose
            result is kept unless its estimated F-score is clearly worse.
        seed : int
            Same mesh, seed and machine: same bytes.
        fill : {"nonzero", "even-odd"}, optional
            What overlapping parts stand for: the space they fill together, or what lies in an odd number of them, so
            that walls within others are kept (those in one place of two parts as slits), and where two overlap is
            empty. By default the latter where parts hide others and it has the better estimated F-score; `report` says
            which.
        min_f_score : float, optional
            Keep the fewest scales whose F-score at .02, as `report` states it, reaches this, if `max_bytes` allows.
        time_limit : float, optional
            Seconds after which refinement stops; marks the stream as not reproducible.
        progress : bool, optional
            A progress bar on standard error; by default for "best".

        Returns
        -------
        TokenStream
            `report` holds what was found, repaired and closed, the F-score at .02 of what it decodes to against the
            mesh as given (parts of it that no closed surface shows count against it; "fast" estimates it, to about
            .02), and sizes in bytes.

        Raises
        ------
        MeshError
            The mesh cannot be read or bounds nothing.
        CodecError
            Not even the first scale fits, or `effort` or `fill` is unknown.
        """
        options = EncodeOptions(
            max_bytes, effort, seed, fill, min_f_score, time_limit,
            progress=effort == "best" if progress is None else progress, precision=self.precision,
        )  # fmt: skip
        return encode_mesh(self.network, self.model, mesh, options)

    def info(self) -> dict[str, Any]:
        """Id, parameters, scales, codebook, and how the codes are used on training shapes.

        Returns
        -------
        dict
        """
        parts = {name: sum(p.numel() for p in module.parameters()) for name, module in self.network.named_children()}
        config = self.network.config
        return {
            "model": self.model.model_id,
            "parameters": sum(parts.values()),
            **{f"parameters_{name}": count for name, count in parts.items()},
            "codes": config.codes,
            "scales": list(config.scales),
            **self.facts,
        }

    def field(self, stream: TokenStream) -> Field:
        """The signed distance that a stream decodes to.

        Parameters
        ----------
        stream : TokenStream

        Returns
        -------
        callable
            Takes float32 points (n, 3) of the file's frame, returns distances (n,) in half-sides, negative inside.
        """
        return StreamDecoder(self.network, MirroredView(stream.frame)).signed_distance(stream)

    def decode(
        self, stream: TokenStream | bytes, resolution: int = 128, scales: int | None = None, faces: int | None = None
    ) -> trimesh.Trimesh:
        """The mesh of a stream, watertight, in the frame and units of the mesh that was encoded.

        Parameters
        ----------
        stream : TokenStream or bytes
        resolution : int
            Cells along the longest side of the extraction grid, up to 512.
        scales : int, optional
            Decode only so many scales.
        faces : int, optional
            Decimate to about so many faces.

        Returns
        -------
        trimesh.Trimesh

        Raises
        ------
        CodecError
            The stream is damaged or belongs to another model.
        """
        import trimesh

        if isinstance(stream, bytes | bytearray):
            stream = TokenStream.from_bytes(bytes(stream), self.model)
        if stream.model_id != self.model.model_id:
            raise CodecError(
                f"the stream was written with model {stream.model_id}, not {self.model.model_id}; load that model"
            )
        if scales is not None:
            stream = stream.truncate(scales)
        vertices, triangles = decode_stream(self.network, stream, resolution)
        if faces is not None:
            vertices, triangles = decimate(vertices, triangles, faces)
        return trimesh.Trimesh(vertices, triangles, process=False)


def tokenizer_for(data: bytes) -> MeshTokenizer:
    """The embedded tokenizer that wrote a file.

    Parameters
    ----------
    data : bytes
        The file.

    Returns
    -------
    MeshTokenizer

    Raises
    ------
    CodecError
        The file is damaged, or its model is not here.
    """
    return MeshTokenizer.from_pretrained(embedded_model(read_model_id(data)).model_id)
