"""The command `vat3d`."""
