"""Checkpoints on their way home, and what may be forgotten once they are there."""
