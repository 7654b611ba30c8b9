"""The command `braincl`."""
