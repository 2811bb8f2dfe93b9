"""A job as somebody else's scheduler wants it: a text, and nothing touched."""
