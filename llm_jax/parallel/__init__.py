"""Devices as a mesh, and the one table that says which array dimension goes to which axis."""
