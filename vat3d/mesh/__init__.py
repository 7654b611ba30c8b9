"""Surfaces: cleaning, solids, thin parts, symmetry, isosurfaces, comparison."""
