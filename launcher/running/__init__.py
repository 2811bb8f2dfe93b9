"""A run on a host: planned, started, looked at, stopped."""
