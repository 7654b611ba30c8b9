"""Linear voxel encoders behind fit and predict."""
