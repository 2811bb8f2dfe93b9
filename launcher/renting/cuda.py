"""Which CUDA a machine's driver must run, known before anything is rented.

A job's image brings its torch, and its tag tells the CUDA of it; where it does not,
setup.sh installs the torch of constraints.txt. Offers are filtered by this number, and
the driver of a rented machine is looked at by it before anything is installed.
"""

from __future__ import annotations

import re

CUDA_OF_TORCH = {"2.13": 13.0}
"""The CUDA that PyPI's wheels of a torch are built with, for the torch of constraints.txt
(https://pytorch.org/get-started/locally/: the default of 2.13). A test keeps the two in step."""


def needed_cuda(image: str, constraints: str) -> float | None:
    """The CUDA of the torch that will run in `image`; None where nobody knows it."""
    tagged = re.search(r"cuda-?(\d+)\.(\d+)", image) or re.search(r"(?:^|[-:])cu(\d+)(\d)(?=\D|$)", image)
    if tagged:
        return float(f"{tagged[1]}.{tagged[2]}")
    pinned = re.search(r"^torch==(\d+\.\d+)", constraints, re.MULTILINE)
    return CUDA_OF_TORCH.get(pinned[1]) if pinned else None
