"""What the user wrote: jobs.yaml as values that can be trusted."""
