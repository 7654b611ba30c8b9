"""Figures: scores, brains, tuning, pictures. Every function takes matplotlib axes, or makes some, and returns them.

Names are loaded when first used; matplotlib and nilearn when a figure is drawn.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "draw_context": "braincl.plot.pictures",
    "draw_glass_brain": "braincl.plot.brain",
    "draw_pictures": "braincl.plot.pictures",
    "draw_reliability": "braincl.plot.curves",
    "draw_roi_bars": "braincl.plot.curves",
    "draw_scores": "braincl.plot.curves",
    "draw_slices": "braincl.plot.brain",
    "draw_surface": "braincl.plot.brain",
    "draw_tuning": "braincl.plot.tuning",
    "plot_scores": "braincl.plot.curves",
    "project_to_surface": "braincl.plot.brain",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'braincl.plot' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
