"""Response sets that need not fit into memory: read and written in blocks of voxels."""
