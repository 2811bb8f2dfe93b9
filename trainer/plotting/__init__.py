"""What runs have measured, drawn: in the terminal, as a picture, as a page."""
