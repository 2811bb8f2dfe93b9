"""Names of GPUs: a person's, a market's, nvidia-smi's."""

from __future__ import annotations

import pytest

from launcher.gpu_models import is_model, is_one_of


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("NVIDIA H100 PCIe", "H100 PCIE"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM4"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIE"),
        ("NVIDIA GeForce RTX 4090", "RTX_4090"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("RTX 6000Ada", "RTX 6000 Ada"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("H100 SXM", "NVIDIA H100 80GB HBM3"),
        ("NVIDIA H200", "H200 NVL"),
    ],
)
def test_they_mean_one_gpu(name: str, wanted: str) -> None:
    assert is_model(name, wanted)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("NVIDIA A100-SXM4-80GB", "A10"),
        ("NVIDIA A10", "A100"),
        ("NVIDIA H100 PCIe", "H100 SXM"),
        ("NVIDIA A100-SXM4-40GB", "A100 80GB"),
        ("NVIDIA H200", "H100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4080"),
        ("NVIDIA L4", "L40S"),
        ("NVIDIA GeForce RTX 4090", "4090 SUPER"),
    ],
)
def test_they_mean_two(name: str, wanted: str) -> None:
    assert not is_model(name, wanted)


def test_nothing_wanted_is_any_and_of_several_one_will_do() -> None:
    assert is_one_of("NVIDIA L4", ())
    assert is_one_of("NVIDIA L4", ("H100", "L4"))
    assert not is_one_of("NVIDIA L4", ("H100", "A100"))
