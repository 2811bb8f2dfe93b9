"""A checkpoint on disk, and the folder it lies in."""
