"""Memory that a step has freed stays with the process, for the next step.

glibc hands large blocks back to the kernel as soon as they are free, and the kernel clears every page that it gives
out again: gradients, logits and activations, anew in each step. Measured on one Zen 4 core, bf16, processor time with
and without this: GPT-2 124M, one row of 256 tokens 0.84; 10M, two rows 0.95. The peak grew by less than 1 %.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """For the rest of this process. Returns whether the C library can; only glibc can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Blocks of any size come from the heap, and the heap never shrinks.
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
