"""`MeshTokenizer`: meshes to token streams and back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from setcore.devices import check_precision, find_device
from setcore.errors import InputError
from vat3d.bitstream.stream import TokenStream, html_table, read_model_id
from vat3d.bitstream.token_model import TokenModel, embedded_model
from vat3d.codec.decode import StreamDecoder, decode_stream
from vat3d.codec.encode import EncodeOptions, encode_mesh
from vat3d.errors import CodecError
from vat3d.mesh.decimate import decimate
from vat3d.mesh.isosurface import Field
from vat3d.network.codec_network import CodecNetwork
from vat3d.placement.mirrored_view import MirroredView
from vat3d.pretrained import load_pretrained

if TYPE_CHECKING:
    import trimesh

T = TypeVar("T")


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
    device : str
        "cpu", "cuda", "mps", or "auto" for the best there is; the network moves there. What goes in and comes out are
        numpy arrays and meshes.

    Raises
    ------
    InputError
        The precision is unknown, or the device is not there.

    Examples
    --------
    >>> import trimesh
    >>> from vat3d import MeshTokenizer
    >>> tok = MeshTokenizer.from_pretrained()
    >>> stream = tok.encode(trimesh.creation.box((2, 1, 1)), max_bytes=256, effort="fast")
    >>> len(stream.to_bytes()) <= 256
    True
    >>> tok.decode(stream, resolution=32).is_watertight
    True
    """

    def __init__(
        self,
        network: CodecNetwork,
        model: TokenModel,
        facts: dict[str, Any] | None = None,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        self.device = find_device(device)
        self.network = network.to(self.device)
        self.model = model
        self.facts = facts or {}
        self._opened: tuple[Any, ...] | None = None
        self.precision = check_precision(precision)

    @classmethod
    def from_pretrained(
        cls, path_or_name: str | Path | None = None, precision: str = "auto", device: str = "auto"
    ) -> MeshTokenizer:
        """A tokenizer with trained weights.

        Parameters
        ----------
        path_or_name : path or str, optional
            A model folder, the name or id of an embedded model, or (None) the embedded default.
        precision : {"auto", "float32", "bfloat16"}
        device : str

        Returns
        -------
        MeshTokenizer

        Raises
        ------
        CodecError, CheckpointError
            There is no such model, or its folder is damaged.
        InputError
            The precision is unknown, or the device is not there.
        """
        tokenizer = cls(*load_pretrained(path_or_name), precision, device)
        folder = path_or_name is not None and Path(path_or_name).is_dir()
        tokenizer._opened = (Path(path_or_name).resolve() if folder else path_or_name, precision, device)  # type: ignore[arg-type]
        return tokenizer

    def __reduce__(self) -> Any:
        """To another process goes the name of a model, which each process opens once, and not its weights."""
        return super().__reduce__() if self._opened is None else (_opened, self._opened)

    def encode(
        self,
        mesh: Any,
        max_bytes: int | None = 512,
        effort: str = "normal",
        seed: int = 0,
        *,
        fill: str | None = None,
        min_f_score: float | None = None,
        time_limit: float | None = None,
        progress: bool | None = None,
    ) -> TokenStream:
        """Encode a mesh, by default into a file of at most 512 bytes.

        Parameters
        ----------
        mesh : path, trimesh.Trimesh, trimesh.Scene or (vertices, faces)
            Open sheets become shells of stated thickness, made flat again in decoding; what is thinner than .016
            half-sides in closed parts is thickened. What stands askew is turned, and of shapes that are nearly their
            own mirror image one half is encoded. Colours and textures are dropped. `report` says so.
        max_bytes : int, optional
            Size of the file, header included. None: every token of all scales, without a residual, for what takes
            tokens rather than files.
        effort : {"fast", "normal", "best"}
            How many steps refine what the encoder says: 3 s, 20 s or 60 s on two cores. At "normal" and "best"
            the result is kept unless its estimated F-score is clearly worse.
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

    def encode_batch(
        self, meshes: Iterable[Any], max_bytes: int | None = 512, effort: str = "normal", **options: Any
    ) -> list[TokenStream | InputError]:
        """Encode several meshes, each as `encode` does; a bad mesh does not stop the others.

        Meshes go through the network one by one: in a batch its sums are rounded otherwise, so that tokens might
        differ, and on a CPU it is no faster. `vat3d encode FOLDER --jobs N` takes several processes.

        Parameters
        ----------
        meshes : iterable of path, trimesh.Trimesh, trimesh.Scene or (vertices, faces)
        max_bytes : int, optional
        effort : {"fast", "normal", "best"}
        **options
            Further arguments of `encode`.

        Returns
        -------
        list of TokenStream or InputError
            In the order of the meshes. The error, a `MeshError` or `CodecError`, takes the place of what could not be
            encoded.

        Raises
        ------
        CodecError
            `effort` or `fill` is unknown.

        Examples
        --------
        >>> import trimesh
        >>> from vat3d import MeshTokenizer
        >>> tok = MeshTokenizer.from_pretrained()
        >>> streams = tok.encode_batch([trimesh.creation.box((2, 1, 1)), "none.ply"], 256, "fast")
        >>> [type(found).__name__ for found in streams]
        ['TokenStream', 'MeshError']
        >>> [type(found).__name__ for found in tok.decode_batch(streams, 32)]
        ['Trimesh', 'MeshError']
        """
        EncodeOptions(max_bytes, effort, **options)  # what is wrong with all is raised
        encode = functools.partial(self.encode, max_bytes=max_bytes, effort=effort, **options)
        return [_outcome(encode, mesh) for mesh in meshes]

    def __repr__(self) -> str:
        codes = f"{len(self.network.config.scales)} scales, {self.network.config.codes} codes"
        return f"MeshTokenizer(model {self.model.model_id}: {codes}; {self.device})"

    def _repr_html_(self) -> str:
        config = self.network.config
        return html_table(
            "MeshTokenizer",
            {"model": self.model.model_id, "codes": config.codes, "tokens of each scale": config.scales,
             "precision": self.precision, "device": self.device},
        )  # fmt: skip

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

    def open(self, stream: TokenStream | bytes | str | Path) -> TokenStream:
        """A stream, whatever it comes as.

        Parameters
        ----------
        stream : TokenStream, bytes or path
            A stream itself, the bytes of a file, or a file.

        Returns
        -------
        TokenStream

        Raises
        ------
        CodecError
            The bytes are no stream, or belong to another model.
        """
        if isinstance(stream, str | Path):
            return TokenStream.load(stream, self.model)
        return TokenStream.from_bytes(bytes(stream), self.model) if isinstance(stream, bytes | bytearray) else stream

    def show(self, stream: TokenStream | bytes | str | Path, reference: Any = None, resolution: int = 64) -> Any:
        """A stream's meshes to turn about in a notebook: a slider goes through the scales, beside a reference.

        Parameters
        ----------
        stream : TokenStream, bytes or path
        reference : path, trimesh.Trimesh or (vertices, faces), optional
            Such as the mesh that was encoded; vertices then have the colour of their distance from it.
        resolution : int
            Cells along the longest side of the extraction grid.

        Returns
        -------
        plotly.graph_objects.Figure
            A notebook shows it; `vat3d.view.save_page` writes it as a page.

        Raises
        ------
        CodecError
            The stream is damaged or belongs to another model.
        InputError
            plotly is not installed.
        """
        from vat3d.view import mesh_figure

        stream = self.open(stream)
        meshes = []
        for scales in range(1, len(stream.ids) + 1):
            mesh = self.decode(stream, resolution, scales)
            size = len(stream.truncate(scales).to_bytes())
            meshes.append((f"{size} bytes", np.asarray(mesh.vertices), np.asarray(mesh.faces)))
        return mesh_figure(meshes, reference)

    def decode(
        self,
        stream: TokenStream | bytes | str | Path,
        resolution: int = 128,
        scales: int | None = None,
        faces: int | None = None,
    ) -> trimesh.Trimesh:
        """The mesh of a stream, watertight, in the frame and units of the mesh that was encoded.

        Parameters
        ----------
        stream : TokenStream, bytes or path
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

        stream = self.open(stream)
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

    def decode_batch(
        self, streams: Iterable[TokenStream | bytes | str | Path | InputError], resolution: int = 128, **options: Any
    ) -> list[trimesh.Trimesh | InputError]:
        """Decode several streams, each as `decode` does; a bad stream does not stop the others.

        Parameters
        ----------
        streams : iterable of TokenStream, bytes, path or InputError
            Errors, as `encode_batch` gives them, are handed on.
        resolution : int
        **options
            Further arguments of `decode`.

        Returns
        -------
        list of trimesh.Trimesh or InputError
            In the order of the streams. The error takes the place of what could not be decoded.
        """
        decode = functools.partial(self.decode, resolution=resolution, **options)
        return [stream if isinstance(stream, InputError) else _outcome(decode, stream) for stream in streams]


def _outcome(function: Callable[[Any], T], item: Any) -> T | InputError:
    try:
        return function(item)
    except InputError as error:
        return error.with_traceback(None)  # which would hold all that the failed call had in memory


@functools.lru_cache(maxsize=1)
def _opened(path_or_name: str | Path | None, precision: str, device: str) -> MeshTokenizer:
    return MeshTokenizer.from_pretrained(path_or_name, precision, device)


def tokenizer_for(data: bytes, device: str = "auto") -> MeshTokenizer:
    """The embedded tokenizer that wrote a file.

    Parameters
    ----------
    data : bytes
        The file.
    device : str

    Returns
    -------
    MeshTokenizer

    Raises
    ------
    CodecError
        The file is damaged, or its model is not here.
    """
    return _opened(embedded_model(read_model_id(data)).model_id, "auto", device)
