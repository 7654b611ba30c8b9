"""Data sets of sampled meshes."""
