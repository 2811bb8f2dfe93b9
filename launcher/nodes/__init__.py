"""Several machines that train together: opened, compared, met, started, looked at and stopped as one thing."""
