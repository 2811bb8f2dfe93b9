"""A host over SSH: where it is, how it is reached, and what can be done there."""
