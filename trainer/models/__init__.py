"""The network, its weights, its loss, and text from it."""
