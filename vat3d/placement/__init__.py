"""A mesh in the frame of its file: how it is turned, what of it the networks see, and where it lies."""
