"""The one loop that every stage shares."""
