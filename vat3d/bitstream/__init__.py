"""The token file: header, frame, entropy coding."""
