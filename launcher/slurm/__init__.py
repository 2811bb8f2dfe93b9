"""Runs that a Slurm cluster starts: what is submitted, what its queue says, and how it is waited for."""
