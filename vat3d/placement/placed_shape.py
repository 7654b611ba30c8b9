"""A mesh where its file has it: posed, with its solid, in the frame that the header can say.

The file's frame is the canonical frame of the posed mesh. Only the aspect of its box, which the networks are told, is
rounded; what the file says of size and place does not change what is encoded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from setcore.evaluation.mesh_metrics import SurfaceSamples
from vat3d.bitstream.coordinate_frame import Frame
from vat3d.mesh.canonical import CanonicalMesh
from vat3d.mesh.solid import Solid
from vat3d.mesh.thin_parts import SOLID_WALL_FLAG, TRIED_THICKNESSES
from vat3d.placement.mirrored_view import MirroredView
from vat3d.placement.pose import best_pose


@dataclass(frozen=True)
class PlacedShape:
    """A mesh and the solid that it stands for, by one fill rule, placed in the frame of its file.

    Parameters
    ----------
    frame : Frame
    solid : Solid
        Of the canonical mesh.
    samples : SurfaceSamples
        Of the mesh as it was given, open sheets rather than shells, in random order.
    view : MirroredView
        What the networks see of the file's frame.
    unit : float
        What is 1 in the evaluation frame, in half-sides of the file's.
    """

    frame: Frame
    solid: Solid
    samples: SurfaceSamples
    view: MirroredView
    unit: float

    def unmirrored(self) -> PlacedShape:
        """The same shape in a frame that holds all of it, though it be its own mirror image.

        Returns
        -------
        PlacedShape
        """
        frame = replace(self.frame, mirror=0)
        return replace(self, frame=frame, view=MirroredView(frame))

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
    unit = mesh.half_side / posed.mesh.half_side
    return PlacedShape(posed.frame, posed.solid, posed.surface, MirroredView(posed.frame), unit)
