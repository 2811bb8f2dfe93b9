"""Sizes are arithmetic: held against the real model, transformers, and published numbers."""

from __future__ import annotations

import os
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from torch import Tensor

from trainer import memory
from trainer.config import ConfigError, ModelConfig, OptimConfig, RunConfig
from trainer.config.model import PRESETS
from trainer.loop.optim import make_optimizer
from trainer.models import attention, loss
from trainer.models.build import build_model
from trainer.sizing import (
    GPUS,
    flops_per_token,
    gpu_named,
    grad_accum_steps,
    memory_estimate,
    mfu,
    num_parameters,
    parameter_parts,
    peak_flops,
    training_plan,
)

GPT2 = ModelConfig(preset="gpt2")
PUBLISHED = [
    (GPT2, 124_439_808),
    (ModelConfig(preset="gpt2-medium"), 354_823_168),
    (ModelConfig(preset="gpt2-large"), 774_030_080),
    (ModelConfig(preset="gpt2-xl"), 1_557_611_200),
    (ModelConfig(preset="gpt2", vocab_size=50304), 124_475_904),
    (ModelConfig(preset="gpt2", vocab_size=50304, bias=False), 124_373_760),
    (ModelConfig(preset="gpt2-dropout"), 124_439_808),
    (ModelConfig(preset="gpt-25m"), 25_764_608),
    (ModelConfig(preset="gpt-125m-2k"), 125_161_728),
    (ModelConfig(preset="gpt-164m-2k"), 163_759_104),
    (ModelConfig(preset="gpt-164m-2k", max_seq_len=1024), 163_009_536),
    (ModelConfig(preset="modern-124m"), 50257 * 768 + 12 * 12 * 768**2),
    (ModelConfig(preset="modern-350m"), 50257 * 1024 + 24 * 12 * 1024**2),
    (ModelConfig(preset="modern-774m"), 50257 * 1280 + 36 * 12 * 1280**2),
    (ModelConfig(preset="modern-124m", tied_head=False), 2 * 50257 * 768 + 12 * 12 * 768**2),
    (ModelConfig(preset="modern-124m", activation="swiglu"), 50257 * 768 + 12 * (4 * 768 + 3 * 2048) * 768),
    (ModelConfig(d_model=384, n_layers=6, n_heads=6, max_seq_len=256, vocab_size=65, bias=False), 10_745_088),
    (ModelConfig(d_model=128, n_layers=4, n_heads=4, max_seq_len=64, vocab_size=65, bias=False), 804_096),
]


@pytest.mark.parametrize(("config", "parameters"), PUBLISHED)
def test_parameters_are_the_published_ones_and_those_of_the_model(config: ModelConfig, parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(config)
    assert num_parameters(config) == parameters
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_every_preset_is_among_the_published_ones() -> None:
    assert {config.preset for config, _ in PUBLISHED} - {"none"} == set(PRESETS)


KINDS = [
    {},
    {"bias": False},
    {"qkv_bias": False},
    {"tied_head": False},
    {"arch": "modern"},
    {"arch": "modern", "tied_head": False},
    {"arch": "modern", "activation": "swiglu"},
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_are_those_of_the_model(kind: dict[str, object]) -> None:
    shape = {"d_model": 48, "n_layers": 3, "n_heads": 4, "max_seq_len": 20, "vocab_size": 77}
    config = ModelConfig.model_validate({**shape, **kind})
    counted = dict.fromkeys(parameter_parts(config), 0)
    for name, parameter in build_model(config).named_parameters():
        part = "norms" if "norm" in name else next(part for part in counted if part in name)
        counted[part] += parameter.numel()
    assert counted == parameter_parts(config)


def test_flops_are_six_per_weight_plus_attention() -> None:
    assert flops_per_token(GPT2) == 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 1024 * 768


def test_flops_do_not_depend_on_whether_the_head_is_tied() -> None:
    modern = ModelConfig(preset="modern-124m")
    assert flops_per_token(modern) == flops_per_token(modern.model_copy(update={"tied_head": False}))
    assert flops_per_token(modern) == 6 * (50257 * 768 + 12 * 12 * 768**2) + 12 * 12 * 1024 * 768


def test_mfu_is_speed_times_flops_over_the_peak() -> None:
    assert mfu(142_000, GPT2, "NVIDIA A100-SXM4-80GB") == pytest.approx(0.389, abs=0.001)
    assert mfu(284_000, GPT2, "NVIDIA A100-SXM4-80GB", num_gpus=2) == pytest.approx(0.389, abs=0.001)
    assert mfu(142_000, GPT2, "Voodoo 2") is None


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", [{}, {"arch": "modern"}, {"arch": "modern", "activation": "swiglu"}])
def test_activations_are_what_autograd_keeps(
    kind: dict[str, object], half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_FP32_UP_TO_KEYS", 0)  # as on a GPU
    shape = {"d_model": 128, "n_layers": 4, "n_heads": 2, "max_seq_len": 128, "vocab_size": 300}
    config = ModelConfig.model_validate({**shape, **kind})
    torch.manual_seed(0)
    model = build_model(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids_BT = torch.randint(300, (5, 128))  # no activation has as many numbers as a weight
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
    ):
        model(ids_BT, ids_BT)
    # Weights and, under autocast, their copies are counted apart; what is left has one row per token.
    shapes = {parameter.numel() for parameter in model.parameters() if parameter.dim() == 2}
    activations = [
        t for p, t in kept.items() if p not in weights and t.untyped_storage().size() // t.element_size() not in shapes
    ]
    measured = sum(tensor.untyped_storage().size() for tensor in activations)
    estimate = memory_estimate(config, 5, "bf16" if half else "fp32")
    assert measured == pytest.approx(estimate.activations, rel=0.06)


def test_optimizer_state_is_four_numbers_per_parameter() -> None:
    estimate = memory_estimate(GPT2, 1, "fp32")
    assert estimate.weights + estimate.gradients + estimate.moments == 16 * 124_439_808
    assert estimate.casts == 0
    assert estimate.total > 16 * 124_439_808


def test_muon_keeps_one_number_for_each_weight_of_a_matrix_as_the_optimizer_does() -> None:
    config = ModelConfig(arch="modern", d_model=32, n_layers=2, n_heads=2, max_seq_len=16, vocab_size=53)
    model = build_model(config)
    optimizer = make_optimizer(model, OptimConfig(kind="muon"))
    model(torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long)).loss_sum.backward()
    optimizer.step()
    kept = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    estimate = memory_estimate(config, 1, "fp32", optimizer="muon")
    assert estimate.moments == sum(4 * tensor.numel() for tensor in kept)


def test_recomputing_keeps_one_block_and_the_inputs_of_the_others() -> None:
    kept = memory_estimate(GPT2, 8, "bf16").activations
    recomputed = memory_estimate(GPT2, 8, "bf16", activation_checkpointing=True).activations
    assert recomputed < 0.25 * kept


def test_half_precision_saves_activations_and_costs_copies() -> None:
    full, half = memory_estimate(GPT2, 8, "fp32"), memory_estimate(GPT2, 8, "bf16")
    assert half.activations < 0.6 * full.activations
    assert half.casts == pytest.approx(2 * 124_439_808, rel=0.01)


def test_the_loss_takes_slices_of_the_size_that_is_planned() -> None:
    assert memory.SLICE_LOGITS == loss.SLICE_LOGITS


def test_the_batch_is_dealt_out_evenly_or_refused() -> None:
    assert grad_accum_steps(32, 8, 2) == 2
    with pytest.raises(ConfigError) as caught:
        grad_accum_steps(32, 8, 3)
    assert str(caught.value.problems[0]) == (
        "training configuration: train.global_batch_size: `32` is not a multiple of "
        "train.micro_batch_size 8 × 3 GPUs = 24"
    )
    assert "train.global_batch_size=24" in caught.value.hint


def test_a_plan_counts_the_whole_run() -> None:
    config = RunConfig.model_validate(
        {"model": {"preset": "gpt2"}, "train": {"max_steps": 600, "global_batch_size": 480, "micro_batch_size": 12}}
    )
    plan = training_plan(config, num_gpus=8)
    assert (plan.steps, plan.grad_accum_steps, plan.tokens_per_step) == (600, 5, 491_520)
    assert plan.tokens == 600 * 491_520
    assert plan.flops == plan.tokens * flops_per_token(config.model)
    assert plan.precision == "bf16"
    assert plan.seconds_by_gpu["A100"] == pytest.approx(plan.flops / (8 * 312e12 * plan.assumed_mfu))
    assert plan.parameters == sum(plan.parameter_parts.values()) == 124_439_808


@pytest.mark.parametrize(
    ("name", "known_as", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100", 312),
        ("NVIDIA A100 80GB PCIe", "A100", 312),
        ("NVIDIA A100-PCIE-40GB", "A100", 312),
        ("NVIDIA H100 80GB HBM3", "H100", 989.4),
        ("NVIDIA H100 PCIe", "H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", "H100 NVL", 835.5),
        ("NVIDIA H200", "H200", 989.4),
        ("NVIDIA GH200 480GB", "GH200", 989.4),
        ("NVIDIA B200", "B200", 2250),
        ("NVIDIA B300 SXM6 AC", "B300", 2250),
        ("NVIDIA L40S", "L40S", 362.05),
        ("NVIDIA L40", "L40", 181.05),
        ("NVIDIA L4", "L4", 121),
        ("NVIDIA A10G", "A10G", 70),
        ("NVIDIA A10", "A10", 125),
        ("Tesla T4", "T4", 65),
        ("Tesla V100-SXM2-16GB", "V100", 125),
        ("Tesla V100-PCIE-32GB", "V100 PCIe", 112),
        ("NVIDIA GeForce RTX 5090", "RTX 5090", 209.5),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", 165.2),
        ("RTX_4090", "RTX 4090", 165.2),
        ("RTX 4090", "RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", "RTX 3090", 71),
        ("NVIDIA GeForce RTX 3090 Ti", "RTX 3090 Ti", 80),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", 364.2),
        ("NVIDIA RTX A6000", "RTX A6000", 154.8),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Blackwell", 503.8),
        ("gpu_8x_a100_80gb_sxm4", "A100", 312),
    ],
)
def test_a_gpu_is_known_by_the_names_it_goes_by(name: str, known_as: str, tflops: float) -> None:
    gpu = gpu_named(name)
    assert gpu is not None
    assert gpu.name == known_as
    assert peak_flops(name) == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    ["", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "NVIDIA GeForce RTX 4090 D", "CPU"],
)
def test_what_is_not_in_the_table_is_not_guessed(name: str) -> None:
    assert gpu_named(name) is None
    assert peak_flops(name) is None


def test_every_gpu_is_found_by_its_own_name_and_has_a_source() -> None:
    assert all(gpu_named(gpu.name) == gpu and gpu.source for gpu in GPUS)


def test_it_needs_no_torch() -> None:
    code = "import sys, trainer.sizing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
