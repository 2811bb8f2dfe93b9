"""Memory that a step has freed stays with the process, for the next step.

glibc hands the end of its heap back to the kernel as soon as it is free, and the kernel clears every page that it gives
out again: activations and gradients, anew in each step. Measured on one Zen 4 core, processor time of a step with and
without this, 10M parameters, bf16, two rows of 256 tokens: 0.95.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
LARGE = 32 << 20
"""Bytes. Larger blocks still go back at once, as by default: kept, they left holes, and the peak of GPT-2 124M with two
rows in bf16 grew by 6 %. They cost time with few tokens a step: 124M with one row took 0.84 of it with them kept."""


def keep_freed_memory() -> bool:
    """For the rest of this process. Returns whether the C library can; only glibc can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGE) and mallopt(_M_TRIM_THRESHOLD, -1))
