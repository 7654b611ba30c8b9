"""Response sets, and the files around them: pictures, NIfTI images, surfaces."""
