"""Image encoders and the embedding of pictures."""
