"""How large a run is before it runs: parameters, tokens, memory, FLOPs and time, by arithmetic alone.

A doorway module: no torch here, so the launcher can print the plan, and what it will cost, on the laptop.
Parameters are exact. Memory is what PyTorch allocates on one GPU, without the CUDA context and fragmentation (add
about 1 GiB); time assumes ASSUMED_MFU. Both are estimates and say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.config.hf_policy import parameter_parts_of
from trainer.config.model import ModelConfig
from trainer.config.problems import ConfigError, Problem
from trainer.config.run import RunConfig
from trainer.gpus import GPUS, Gpu, gpu_named, peak_flops

__all__ = [
    "ASSUMED_MFU",
    "GPUS",
    "Gpu",
    "MemoryEstimate",
    "TrainingPlan",
    "flops_per_token",
    "gpu_named",
    "grad_accum_steps",
    "hidden_matrices",
    "memory_estimate",
    "mfu",
    "num_parameters",
    "parameter_parts",
    "peak_flops",
    "tokens_per_run",
    "tokens_per_step",
    "training_plan",
]

Precision = Literal["fp32", "bf16", "fp16"]

ASSUMED_MFU = 0.35
"""Share of the peak a run is taken to reach. Raschka's GPT-2 124M on one A100, 142,000 tokens/s, is 0.39."""

COMMON_GPUS = ("RTX 4090", "RTX 5090", "L40S", "A100", "H100", "H200", "B200")
"""The GPUs a plan estimates the time for."""

SLICE_LOGITS = 2**26
"""Logits alive at a time in the loss; trainer.models.loss, which the laptop cannot import, has the same number."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU at the fullest moment of a step, the start of the backward."""

    weights: int
    gradients: int
    moments: int
    casts: int
    """Half-precision copies of the matrices, which autocast makes in each forward."""
    activations: int
    """What the blocks keep for their backward."""
    head: int
    """One slice of logits, its softmax in fp32, and the gradients that the loss makes beside them."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.casts + self.activations + self.head


@dataclass(frozen=True)
class TrainingPlan:
    """What a run will do and take; the launcher and `--dry-run` print it."""

    parameters: int
    parameter_parts: dict[str, int]
    num_gpus: int
    precision: Precision
    steps: int
    grad_accum_steps: int
    tokens_per_step: int
    tokens: int
    memory: MemoryEstimate
    """Of one GPU."""
    flops: float
    """Of the whole run."""
    assumed_mfu: float
    seconds_by_gpu: dict[str, float]
    """Estimated time of the whole run on `num_gpus` of each of the COMMON_GPUS."""


def parameter_parts(model: ModelConfig) -> dict[str, int]:
    """Parameters by part. A tied head is the token embedding and counts once; a head of its own is a part."""
    if model.arch == "transformers":
        sizes = {key: getattr(model, key) for key in ("d_model", "n_layers", "n_heads", "vocab_size", "max_seq_len")}
        parts = parameter_parts_of(model.transformers, sizes)
        return parts if model.tied_head else {**parts, "head": model.vocab_size * model.d_model}
    D, L, bias, qkv_bias = model.d_model, model.n_layers, int(model.bias), int(model.bias and model.qkv_bias)
    matrices = 3 if model.activation == "swiglu" else 2
    parts = {
        "token_embedding": model.vocab_size * D,
        "position_embedding": model.max_seq_len * D,
        "attention": L * (4 * D * D + qkv_bias * 3 * D + bias * D),
        "mlp": L * (matrices * D * model.d_ff + bias * (model.d_ff + D)),
        "norms": (2 * L + 1) * (1 + bias) * D,
    }
    if model.arch == "modern":  # rotary positions and norms without weights
        del parts["position_embedding"], parts["norms"]
    return parts if model.tied_head else {**parts, "head": model.vocab_size * D}


def num_parameters(model: ModelConfig) -> int:
    """Exactly; for a GPT-2 V·D + T·D + L·(12·D² + 13·D) + 2·D."""
    return sum(parameter_parts(model).values())


def flops_per_token(model: ModelConfig) -> int:
    """Forward and backward of one token in a full row: 6·N + 12·L·T·D (Chowdhery et al. 2022, PaLM, appendix B).

    N leaves out what multiplies nothing, the position embedding and the token embedding where it is not the head.
    As usual for MFU the causal half of attention is counted in full and nothing is added for recomputation.
    """
    parts = parameter_parts(model)
    looked_up = parts.get("position_embedding", 0) + (0 if model.tied_head else parts["token_embedding"])
    multiplied = sum(parts.values()) - looked_up
    return 6 * multiplied + 12 * model.n_layers * model.max_seq_len * model.d_model


def mfu(tokens_per_second: float, model: ModelConfig, gpu_name: str, num_gpus: int = 1) -> float | None:
    """Share of the peak that a measured speed over all GPUs is; None where the peak is not known."""
    peak = peak_flops(gpu_name)
    return tokens_per_second * flops_per_token(model) / (peak * num_gpus) if peak else None


def memory_estimate(
    model: ModelConfig,
    micro_batch_size: int,
    precision: Precision,
    *,
    optimizer: Literal["adamw", "muon"] = "adamw",
    activation_checkpointing: bool = False,
) -> MemoryEstimate:
    """Bytes to train with fp32 weights, half precision by autocast, every activation kept unless it is recomputed."""
    parts = parameter_parts(model)
    parameters, hidden = sum(parts.values()), hidden_matrices(model)
    cast = parts.get("head", parts["token_embedding"]) + parts["attention"] + parts["mlp"]
    half = precision != "fp32"
    width = 2 if half else 4
    tokens = micro_batch_size * model.max_seq_len
    sliced = min(tokens * model.vocab_size, SLICE_LOGITS)
    return MemoryEstimate(
        weights=4 * parameters,
        gradients=4 * parameters,
        moments=8 * parameters - (4 * hidden if optimizer == "muon" else 0),
        casts=2 * cast if half else 0,
        activations=tokens * _activation_bytes_per_token(model, width, activation_checkpointing),
        head=sliced * (width + 4) + (4 * model.vocab_size + width * tokens) * model.d_model,
    )


def hidden_matrices(model: ModelConfig) -> int:
    """Parameters of the blocks' matrices, biases left out: what Muon keeps one number for, and AdamW two."""
    matrices = 3 if model.activation == "swiglu" else 2
    return model.n_layers * (4 * model.d_model**2 + matrices * model.d_model * model.d_ff)


def _activation_bytes_per_token(model: ModelConfig, width: int, recomputed: bool) -> int:
    block = _block_bytes_per_token(model, width)
    last_norm = (4 + width) * model.d_model
    if recomputed:  # each block's input, and everything of the one block that is at it
        return model.n_layers * 4 * model.d_model + block + last_norm
    return model.n_layers * block + last_norm


def _block_bytes_per_token(model: ModelConfig, width: int) -> int:
    """Two norm inputs in fp32; two normed, q, k, v and attended in the compute dtype; what the MLP keeps.

    `modern` keeps queries and keys once more rotated in fp32 and once more normed.
    """
    D, inside = model.d_model, model.d_ff * width
    dropout_masks = 2 if model.dropout else 0
    mlp = {"gelu": 2, "relu2": 2, "swiglu": 4}[model.activation] * inside
    rotated = 2 * (4 + 4) * D if model.arch == "modern" else 0
    return D * (2 * 4 + 6 * width + dropout_masks) + mlp + rotated


def tokens_per_step(config: RunConfig) -> int:
    """Tokens of one optimizer step over all GPUs."""
    return config.train.global_batch_size * config.seq_len


def tokens_per_run(config: RunConfig) -> int:
    """Tokens the whole run trains on; a small corpus is gone through several times."""
    return config.train.max_steps * tokens_per_step(config)


def grad_accum_steps(global_batch_size: int, micro_batch_size: int, num_gpus: int) -> int:
    """Forwards per GPU in one optimizer step. Raises ConfigError where the sequences cannot be dealt out evenly."""
    per_forward = micro_batch_size * num_gpus
    if global_batch_size % per_forward == 0:
        return global_batch_size // per_forward
    gpus = "1 GPU" if num_gpus == 1 else f"{num_gpus} GPUs"
    message = f"`{global_batch_size}` is not a multiple of train.micro_batch_size {micro_batch_size} × {gpus}"
    nearest = max(1, round(global_batch_size / per_forward)) * per_forward
    raise ConfigError(
        [Problem("training configuration", "train.global_batch_size", f"{message} = {per_forward}")],
        hint=f"add `train.global_batch_size={nearest}`, or choose another `train.micro_batch_size`",
    )


def training_plan(config: RunConfig, num_gpus: int = 1) -> TrainingPlan:
    """The plan of `config` on `num_gpus` GPUs (or processes). Raises ConfigError where the batch does not divide."""
    precision: Precision = "bf16" if config.train.precision == "auto" else config.train.precision
    flops = float(tokens_per_run(config)) * flops_per_token(config.model)
    peaks = {name: peak_flops(name) for name in COMMON_GPUS}
    return TrainingPlan(
        parameters=num_parameters(config.model),
        parameter_parts=parameter_parts(config.model),
        num_gpus=num_gpus,
        precision=precision,
        steps=config.train.max_steps,
        grad_accum_steps=grad_accum_steps(config.train.global_batch_size, config.train.micro_batch_size, num_gpus),
        tokens_per_step=tokens_per_step(config),
        tokens=tokens_per_run(config),
        memory=memory_estimate(
            config.model,
            config.train.micro_batch_size,
            precision,
            optimizer=config.optim.kind,
            activation_checkpointing=config.train.activation_checkpointing,
        ),
        flops=flops,
        assumed_mfu=ASSUMED_MFU,
        seconds_by_gpu={name: flops / (peak * num_gpus * ASSUMED_MFU) for name, peak in peaks.items() if peak},
    )
