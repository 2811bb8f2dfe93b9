"""What common GPUs can do at most: dense matrix throughput and memory, found by the name nvidia-smi gives.

The peaks are the maker's own, without sparsity, in bf16 with fp32 accumulation; on Volta and Turing, which have no
bf16, in fp16. An unknown name, a laptop chip or a slice of a GPU (MIG) gives None: none is better than a wrong one.

Free of torch; part of the doorway `trainer.sizing`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One model of GPU."""

    name: str
    """Its short name; every word of it occurs in nvidia-smi's name."""
    peak_tflops: float
    memory_gib: int
    """Of the largest variant."""
    half: str
    """`bf16`, or `fp16` where the chip has no bf16: what the peak is for, and what `auto` precision trains in."""
    source: str


def _gpu(name: str, peak_tflops: float, memory_gib: int, source: str, half: str = "bf16") -> Gpu:
    return Gpu(name, peak_tflops, memory_gib, half, source)


GPUS = (
    # Data centre. Datasheets give sparse numbers from Hopper on; these are half of them.
    _gpu("B300", 2250, 288, "HGX B300 datasheet: 36 PFLOPS sparse for 8"),
    _gpu("B200", 2250, 192, "HGX B200 datasheet: 36 PFLOPS sparse for 8"),
    _gpu("GH200", 989.4, 144, "GH200 datasheet: 1,979 sparse"),
    _gpu("H200", 989.4, 141, "H200 datasheet: 1,979 sparse"),
    _gpu("H200 NVL", 835.5, 141, "H200 datasheet: 1,671 sparse"),
    _gpu("H100", 989.4, 80, "H100 datasheet, SXM5: 1,979 sparse"),
    _gpu("H100 PCIe", 756.5, 80, "H100 datasheet: 1,513 sparse"),
    _gpu("H100 NVL", 835.5, 94, "H100 NVL datasheet: 1,671 sparse"),
    _gpu("H800", 989.4, 80, "as H100 SXM5; only links and fp64 are cut"),
    _gpu("H20", 148, 96, "H20 datasheet"),
    _gpu("A100", 312, 80, "A100 datasheet, SXM4 and PCIe alike"),
    _gpu("A800", 312, 80, "as A100; only links are cut"),
    _gpu("A40", 149.7, 48, "A40 datasheet"),
    _gpu("A30", 165, 24, "A30 datasheet"),
    _gpu("A10", 125, 24, "A10 datasheet"),
    _gpu("A10G", 70, 24, "A10G datasheet: 140 sparse"),
    _gpu("L40S", 362.05, 48, "L40S datasheet"),
    _gpu("L40", 181.05, 48, "L40 datasheet"),
    _gpu("L4", 121, 24, "L4 datasheet: 242 sparse"),
    _gpu("V100", 125, 32, "V100 datasheet, SXM2", "fp16"),
    _gpu("V100 PCIe", 112, 32, "V100 datasheet", "fp16"),
    _gpu("V100S", 130, 32, "V100 datasheet", "fp16"),
    _gpu("T4", 65, 16, "T4 datasheet", "fp16"),
    # Workstation.
    _gpu("RTX PRO 6000 Blackwell", 503.8, 96, "RTX Blackwell PRO whitepaper"),
    _gpu("RTX 6000 Ada", 364.2, 48, "RTX 6000 Ada datasheet: 728.5 sparse"),
    _gpu("RTX A6000", 154.8, 48, "RTX A6000 datasheet: 309.7 sparse"),
    _gpu("RTX A5000", 111.1, 24, "RTX A5000 datasheet: 222.2 sparse"),
    _gpu("RTX A4000", 76.7, 16, "RTX A4000 datasheet: 153.4 sparse"),
    # Gaming chips halve their rate with fp32 accumulation.
    _gpu("RTX 5090", 209.5, 32, "RTX Blackwell whitepaper, appendix A"),
    _gpu("RTX 5080", 112.6, 16, "RTX Blackwell whitepaper, appendix B"),
    _gpu("RTX 4090", 165.2, 24, "Ada whitepaper v2.1, appendix A"),
    _gpu("RTX 4080 SUPER", 104.4, 16, "Ada whitepaper rates at its 2.55 GHz boost and 80 SMs"),
    _gpu("RTX 4080", 97.5, 16, "Ada whitepaper v2.1, appendix B"),
    _gpu("RTX 3090 Ti", 80, 24, "GA102 whitepaper rates at its 1.86 GHz boost and 84 SMs"),
    _gpu("RTX 3090", 71, 24, "GA102 whitepaper v2.1, appendix A"),
    _gpu("RTX 3080 Ti", 68.2, 12, "GA102 whitepaper rates at its 1.67 GHz boost and 80 SMs"),
    _gpu("RTX 3080", 59.5, 10, "GA102 whitepaper v2.1, appendix A"),
    _gpu("RTX 2080 Ti", 53.8, 11, "Turing whitepaper, appendix A", "fp16"),
)

# Words that say how a chip is packed and do not change its peak, after the model's own words were taken out.
_PACKAGING = re.compile(
    r"nvidia|geforce|tesla|quadro|gpu|sxm\d?|pcie|hbm\d?e?|\d+x|\d+gb?|gb|ac|oem|generation|server|workstation|edition"
)


def gpu_named(name: str) -> Gpu | None:
    """The GPU nvidia-smi, CUDA or a market calls `name` (`NVIDIA A100-SXM4-80GB`, `RTX_4090`, `H100 PCIe`)."""
    words = _words(name)
    fitting = [gpu for gpu in GPUS if _fits(_words(gpu.name), words)]
    return max(fitting, key=lambda gpu: len(_words(gpu.name)), default=None)


def peak_flops(name: str) -> float | None:
    """Dense half-precision FLOP/s of one such GPU; None where it is not known."""
    gpu = gpu_named(name)
    return gpu.peak_tflops * 1e12 if gpu else None


def _fits(model: frozenset[str], words: frozenset[str]) -> bool:
    return model <= words and all(_PACKAGING.fullmatch(word) for word in words - model)


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower()))
