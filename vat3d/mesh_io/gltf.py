"""glTF 2.0: the shape at rest of its scene, all instances merged.

The standard: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vat3d.errors import MeshError
from vat3d.mesh_io.gltf_buffers import Buffers, open_gltf
from vat3d.mesh_io.raw_mesh import RawMesh
from vat3d.mesh_io.strips import fan_triangles, strip_triangles

MAX_TRIANGLES = 20_000_000
"""Most triangles, and vertices, that the instances of a scene may add up to."""
_INSTANCES = "EXT_mesh_gpu_instancing"
_READ = {"KHR_mesh_quantization", _INSTANCES}
"""Extensions that change the shape and are read."""
_HARMLESS = (
    *("KHR_materials_", "EXT_materials_", "ADOBE_materials_", "KHR_texture_", "EXT_texture_", "MSFT_texture_"),
    *("KHR_lights_", "EXT_lights_", "KHR_xmp", "KHR_animation_pointer", "EXT_mesh_features", "EXT_structural_metadata"),
)
"""How the names of extensions begin that leave the shape as it is."""
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_Shape = tuple[NDArray[np.float64], NDArray[np.int64]]


def read_gltf(data: bytes, folder: Path | None = None) -> RawMesh:
    """glTF, as text or binary (GLB): skins and morph targets at rest, sparse, quantised and instanced meshes.

    Parameters
    ----------
    data : bytes
    folder : Path, optional
        Where the files lie that hold its buffers. By default all has to be embedded.

    Returns
    -------
    RawMesh

    Raises
    ------
    MeshError
        The file is damaged, needs what lies elsewhere, or an extension without which its shape would be a guess.
    """
    tree, chunk = open_gltf(data)
    try:
        for name in tree.get("extensionsRequired", []):
            if name not in _READ and not name.startswith(_HARMLESS):
                raise MeshError(f"the file needs the extension {name[:60]}, which is not read; export it without")
        parts, dropped = _Scene(tree, Buffers(tree, chunk, folder)).drawn()
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        if isinstance(error, MeshError):
            raise
        what = f"{type(error).__name__}: {str(error)[:60]}"
        raise MeshError(f"the GLB file's JSON part is damaged ({what}); export it again") from error
    starts = np.cumsum([0, *(len(points) for points, _ in parts)])
    notes = ["materials and texture are dropped"] if tree.get("materials") else []
    if dropped:
        notes.append(f"{dropped} parts of points or lines are dropped")
    return RawMesh(
        np.concatenate([np.zeros((0, 3)), *(points for points, _ in parts)]),
        np.concatenate([np.zeros((0, 3), np.int64), *(f + s for (_, f), s in zip(parts, starts, strict=False))]),
        notes,
    )


class _Scene:
    """The nodes of a glTF file, and what they draw."""

    def __init__(self, tree: dict[str, Any], buffers: Buffers) -> None:
        self._tree, self._buffers = tree, buffers
        self._nodes: list[dict[str, Any]] = tree.get("nodes", [])
        self._meshes: list[dict[str, Any]] = tree.get("meshes", [])
        children = [child for node in self._nodes for child in node.get("children", [])]
        if len(children) != len(set(children)):
            raise MeshError("a node of the GLB scene has two parents; export it again")
        roots = [k for k in range(len(self._nodes)) if k not in set(children)]
        self._world = dict(self._below(roots))
        self._total = 0

    def drawn(self) -> tuple[list[_Shape], int]:
        """The parts of the scene, placed; and how many of points or lines are left out."""
        scenes = self._tree.get("scenes")
        scene = scenes[self._tree.get("scene", 0)].get("nodes", []) if scenes else list(self._world)
        parts, dropped = [], 0
        for index in dict.fromkeys(self._beneath(scene) if scenes else scene):
            node = self._nodes[index]
            if index not in self._world:
                raise MeshError("the GLB scene goes round in a circle; export it again")
            if "mesh" not in node:
                continue
            mesh = self._meshes[node["mesh"]]
            placements = self._placements(index)
            for primitive in mesh["primitives"]:
                if "POSITION" not in primitive["attributes"]:  # the standard: such a one is not drawn
                    continue
                self._check_plain(primitive)
                faces = self._faces(primitive)
                if faces is None:
                    dropped += 1
                    continue
                self._count(primitive, faces, len(placements))
                points = self._points(primitive, node.get("weights", mesh.get("weights", [])))
                if "skin" in node:
                    parts.append((self._skinned(points, primitive, node["skin"]), faces))
                else:
                    parts += [_placed(points, faces, placement) for placement in placements]
        return parts, dropped

    def _below(self, roots: list[int]) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Every node with its transform into the scene."""
        waiting = [(index, np.eye(4)) for index in roots]
        while waiting:
            index, parent = waiting.pop()
            world = parent @ _local(self._nodes[index])
            yield index, world
            waiting += [(child, world) for child in self._nodes[index].get("children", [])]

    def _beneath(self, roots: list[int]) -> Iterator[int]:
        """Nodes from some on downwards, each once."""
        waiting, seen = list(roots)[::-1], set()
        while waiting:
            index = waiting.pop()
            if index not in seen:
                seen.add(index)
                yield index
                waiting += self._nodes[index].get("children", [])[::-1]

    def _placements(self, index: int) -> NDArray[np.float64]:
        """Transforms (k, 4, 4) of the instances of a node's mesh."""
        given = self._nodes[index].get("extensions", {}).get(_INSTANCES, {}).get("attributes", {})
        columns = {
            key: self._buffers.accessor(given[key]) for key in ("TRANSLATION", "ROTATION", "SCALE") if key in given
        }
        if not columns:
            return self._world[index][None]
        count = {len(values) for values in columns.values()}
        if len(count) != 1:
            raise MeshError("the instances of a node of the GLB scene have unequal counts; it is damaged")
        placed = _transforms(count.pop(), **{key.lower(): values for key, values in columns.items()})
        return self._world[index] @ placed

    def _faces(self, primitive: dict[str, Any]) -> NDArray[np.int64] | None:
        """Triangles of a primitive; None where it draws points or lines."""
        mode = primitive.get("mode", _TRIANGLES)
        if mode not in (_TRIANGLES, _STRIP, _FAN):
            return None
        if "indices" in primitive:
            corners = self._buffers.accessor(primitive["indices"]).astype(np.int64)
        else:
            corners = np.arange(len(self._buffers.accessor(primitive["attributes"]["POSITION"])))
        if mode == _STRIP:
            return strip_triangles(corners)
        return fan_triangles(corners) if mode == _FAN else corners[: len(corners) // 3 * 3].reshape(-1, 3)

    def _check_plain(self, primitive: dict[str, Any]) -> None:
        """Refuse a primitive whose positions or indices lie in an extension alone."""
        used = [primitive["attributes"]["POSITION"], *([primitive["indices"]] if "indices" in primitive else [])]
        for accessor in (self._tree["accessors"][index] for index in used):
            if primitive.get("extensions") and "bufferView" not in accessor and "sparse" not in accessor:
                raise MeshError(f"a part lies in the extension {', '.join(primitive['extensions'])}; export it without")

    def _count(self, primitive: dict[str, Any], faces: NDArray[np.int64], instances: int) -> None:
        points = self._tree["accessors"][primitive["attributes"]["POSITION"]]["count"]
        self._total += max(points, len(faces)) * instances
        if self._total > MAX_TRIANGLES:
            raise MeshError(f"the instances of the GLB scene add up to over {MAX_TRIANGLES:,} triangles; simplify it")
        if len(faces) and faces.max() >= points:
            raise MeshError(f"a triangle of the GLB file points to vertex {faces.max()} of {points}; it is damaged")

    def _points(self, primitive: dict[str, Any], weights: list[float]) -> NDArray[np.float64]:
        """Positions (n, 3), with those of morph targets by their weights at rest."""
        points = _triples(self._buffers.accessor(primitive["attributes"]["POSITION"]))
        for weight, target in zip(weights, primitive.get("targets", []), strict=False):
            if weight and "POSITION" in target:
                points = points + float(weight) * _triples(self._buffers.accessor(target["POSITION"]))
        return points

    def _skinned(self, points: NDArray[np.float64], primitive: dict[str, Any], index: int) -> NDArray[np.float64]:
        """Positions as the joints of a skin place them: the mesh's own node does not count."""
        skin, attributes = self._tree["skins"][index], primitive["attributes"]
        bones = np.stack([self._world[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            inverse = self._buffers.accessor(skin["inverseBindMatrices"])[: len(bones)]
            bones = bones @ inverse.astype(np.float64).reshape(-1, 4, 4).swapaxes(1, 2)  # stored by columns
        sets = [key.removeprefix("JOINTS") for key in attributes if key.startswith("JOINTS_")]
        joints = np.concatenate([self._buffers.accessor(attributes[f"JOINTS{key}"]) for key in sets], 1).astype(int)
        weights = np.concatenate([self._buffers.accessor(attributes[f"WEIGHTS{key}"]) for key in sets], 1)
        weights = weights / np.maximum(weights.sum(1, keepdims=True, dtype=np.float64), 1e-12)
        placed = np.zeros_like(points)
        for joint, weight in zip(joints.T, weights.T, strict=True):
            bone = bones[joint]
            placed += weight[:, None] * (np.einsum("nij,nj->ni", bone[:, :3, :3], points) + bone[:, :3, 3])
        return placed


def _triples(values: NDArray[Any]) -> NDArray[np.float64]:
    if values.ndim != 2 or values.shape[1] != 3:
        raise MeshError("the positions of the GLB file are not of three numbers each; it is damaged")
    return values.astype(np.float64)


def _placed(points: NDArray[np.float64], faces: NDArray[np.int64], placement: NDArray[np.float64]) -> _Shape:
    """A shape in the scene; a placement that mirrors it turns its faces round, so that they still look outward."""
    mirrored = np.linalg.det(placement[:3, :3]) < 0
    return points @ placement[:3, :3].T + placement[:3, 3], faces[:, ::-1] if mirrored else faces


def _local(node: dict[str, Any]) -> NDArray[np.float64]:
    """The transform (4, 4) of a node into its parent."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    given = {key: np.array([node[key]], np.float64) for key in ("translation", "rotation", "scale") if key in node}
    return _transforms(1, **given).reshape(4, 4)


def _transforms(
    count: int,
    translation: NDArray[Any] | None = None,
    rotation: NDArray[Any] | None = None,
    scale: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Matrices (count, 4, 4) that scale, then turn by a quaternion (x, y, z, w), then move."""
    made = np.tile(np.eye(4), (count, 1, 1))
    if rotation is not None:
        x, y, z, w = (rotation / np.linalg.norm(rotation, axis=1, keepdims=True)).T
        made[:, 0, :3] = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], 1)
        made[:, 1, :3] = np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], 1)
        made[:, 2, :3] = np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], 1)
    if scale is not None:
        made[:, :3, :3] *= scale[:, None, :]
    if translation is not None:
        made[:, :3, 3] = translation
    return made
