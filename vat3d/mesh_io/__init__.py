"""Reading and writing mesh files."""
