"""New shapes from a next-scale transformer."""
