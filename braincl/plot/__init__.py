"""Figures: scores, brains, tuning, pictures. A function ``draw_...`` takes matplotlib axes, or makes some, and returns
them; one ``view_...`` returns a page for a browser or a notebook.

Names are loaded when first used; matplotlib and nilearn when a figure is drawn.
"""

from __future__ import annotations

from setcore.package import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "draw_context": "braincl.plot.pictures",
        "draw_glass_brain": "braincl.plot.brain",
        "draw_identification": "braincl.plot.decoding",
        "draw_partition": "braincl.plot.decoding",
        "draw_pictures": "braincl.plot.pictures",
        "draw_reliability": "braincl.plot.curves",
        "draw_roi_bars": "braincl.plot.curves",
        "draw_scores": "braincl.plot.curves",
        "draw_slices": "braincl.plot.brain",
        "draw_surface": "braincl.plot.brain",
        "draw_tuning": "braincl.plot.tuning",
        "plot_identification": "braincl.plot.decoding",
        "plot_partition": "braincl.plot.decoding",
        "plot_scores": "braincl.plot.curves",
        "project_to_surface": "braincl.plot.brain",
        "view_surface": "braincl.plot.interactive",
        "view_voxels": "braincl.plot.interactive",
    },
)
