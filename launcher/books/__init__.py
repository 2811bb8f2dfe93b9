"""What we intended and what came of it, on disk before it happens."""
