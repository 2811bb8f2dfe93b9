"""What a rented machine is where nobody says: the same in jobs.yaml and on the command line."""

from __future__ import annotations

DEFAULT_IMAGE = "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime"
"""Its torch is that of constraints.txt, so set-up has nothing large to fetch."""
DEFAULT_DISK_GIB = 20
DEFAULT_MIN_RELIABILITY = 0.95
