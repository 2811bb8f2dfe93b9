"""The number format a machine should train in.

Weights, gradients and moments are always fp32; this is about matrix products (autocast).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from trainer.errors import EngineError

Precision = Literal["fp32", "bf16", "fp16"]


def chosen_precision(wanted: Literal["auto", "fp32", "bf16", "fp16"], device_type: str) -> Precision:
    """What `train.precision` means here. Raises EngineError where this machine cannot compute in it."""
    if wanted == "fp16" and device_type != "cuda":
        raise EngineError(
            "fp16 needs a GPU",
            why=f"this run computes on `{device_type}`, where gradients in fp16 could not be scaled",
            hint="leave `train.precision` out, or write `train.precision=bf16`",
        )
    if wanted != "auto":
        return wanted
    if device_type == "cuda":
        # bf16 exists from compute capability 8.0 (A100) on; torch would emulate it before, slower than fp32.
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    return "bf16" if _cpu_computes_in_bf16() else "fp32"


def _cpu_computes_in_bf16() -> bool:
    """Whether the instruction set has it; measured about twice as fast as fp32 there, and slower elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(text.split())
