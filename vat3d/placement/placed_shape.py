"""A mesh where its file has it: posed, with its solid, in the frame that the header can say.

What is sampled of the solid lies in the canonical frame of the mesh; `CanonicalToFile` moves it into the file's, whose
box is quantised, so that encoder and decoder agree to the last bit on where things are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setcore.evaluation.mesh_metrics import SurfaceSamples
from vat3d.bitstream.coordinate_frame import Frame
from vat3d.mesh.canonical import CanonicalMesh
from vat3d.mesh.solid import Solid
from vat3d.mesh.thin_parts import SOLID_WALL_FLAG, TRIED_THICKNESSES
from vat3d.placement.mirrored_view import MirroredView
from vat3d.placement.pose import best_pose


class CanonicalToFile:
    """The map from a canonical mesh's frame to the frame as the header holds it.

    Parameters
    ----------
    mesh : CanonicalMesh
    frame : Frame
    """

    def __init__(self, mesh: CanonicalMesh, frame: Frame) -> None:
        self.scale = mesh.half_side / frame.half_side
        self.shift = (mesh.centre - frame.centre) / frame.half_side

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Move points into the file's frame.

        Parameters
        ----------
        points : array of shape (n, 3)

        Returns
        -------
        array of shape (n, 3)
        """
        return points * self.scale + self.shift

    def back(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Move points of the file's frame into the canonical one.

        Parameters
        ----------
        points : array of shape (n, 3)

        Returns
        -------
        array of shape (n, 3)
        """
        return (points - self.shift) / self.scale


@dataclass(frozen=True)
class PlacedShape:
    """A mesh and the solid that it stands for, by one fill rule, placed in the frame of its file.

    Parameters
    ----------
    frame : Frame
    solid : Solid
        Of the canonical mesh.
    samples : SurfaceSamples
        Of the mesh as it was given, open sheets rather than shells, in random order; canonical frame.
    to_file : CanonicalToFile
    view : MirroredView
        What the networks see of the file's frame.
    unit : float
        What is 1 in the evaluation frame, in half-sides of the file's.
    """

    frame: Frame
    solid: Solid
    samples: SurfaceSamples
    to_file: CanonicalToFile
    view: MirroredView
    unit: float

    @property
    def original(self) -> SurfaceSamples:
        """Samples of the mesh as it was given, in the file's frame."""
        return SurfaceSamples(self.to_file(self.samples.points), self.samples.normals)

    @property
    def has_internal_surfaces(self) -> bool:
        """Whether the even-odd rule shows surface that otherwise lies deep within parts."""
        return self.solid.has_internal_surfaces(self.samples)

    @property
    def thicknesses(self) -> tuple[int, ...]:
        """Thicknesses that a file may give its thin parts; none, if it has no thin parts."""
        if not self.solid.is_thin(self.samples):
            return ()
        walls = SOLID_WALL_FLAG if self.solid.has_walls(self.samples) else 0
        return tuple(walls + thickness for thickness in TRIED_THICKNESSES)

    @property
    def report(self) -> dict[str, Any]:
        """What was found, repaired and closed."""
        pose = {"turned_degrees": self.frame.turned_degrees, "mirrored_axes": self.frame.mirrored_axes}
        return {**self.solid.mesh.report, **self.solid.report, **pose}

    def contains(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points lie inside the solid.

        Parameters
        ----------
        points : array of shape (n, 3)
            Of the file's frame.

        Returns
        -------
        bool array of shape (n,)
        """
        return self.solid.contains(self.to_file.back(points))


def place_shape(mesh: CanonicalMesh) -> PlacedShape:
    """Pose a mesh and place it in the frame of its file.

    Parameters
    ----------
    mesh : CanonicalMesh

    Returns
    -------
    PlacedShape
        By the fill rule "nonzero".
    """
    posed = best_pose(mesh)
    to_file, view = CanonicalToFile(posed.mesh, posed.frame), MirroredView(posed.frame)
    return PlacedShape(posed.frame, posed.solid, posed.surface, to_file, view, mesh.half_side / posed.mesh.half_side)
