"""From a mesh to a token stream and back."""
