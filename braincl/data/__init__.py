"""Response sets, NIfTI images and surface files."""
