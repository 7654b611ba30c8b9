"""Fill rules: what overlapping parts stand for."""

from __future__ import annotations

NONZERO, EVEN_ODD = "nonzero", "even-odd"
"""Fill rules, as graphics calls them: what lies in several parts is inside, or is so if their number is odd."""
FILLS = (NONZERO, EVEN_ODD)
