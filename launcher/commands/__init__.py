"""What would be typed on a host, as data. Pure functions that return a Command; who types it is in `transport`."""
