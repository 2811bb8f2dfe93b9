"""A machine from opening to its proven end."""
