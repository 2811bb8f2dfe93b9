"""Providers: each translates one API, and only that. `open_provider` in `by_name` imports them late."""
