"""How large a run is before it runs: parameters, tokens, memory, FLOPs and time, by arithmetic alone.

A doorway module: no torch here, so the launcher can print the plan, and what it will cost, on the laptop.
Parameters are exact. Memory (trainer.memory) and time, which assumes ASSUMED_MFU, are estimates and say so.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.adapted import adapter_parameters
from trainer.config.adapters import LoraConfig
from trainer.config.model import ModelConfig
from trainer.config.problems import ConfigError, Problem
from trainer.config.run import RunConfig
from trainer.gpus import GPUS, Gpu, gpu_named, peak_flops
from trainer.memory import MemoryEstimate, Precision, checkpoint_bytes, memory_estimate
from trainer.parameters import hidden_matrices, num_parameters, parameter_parts

__all__ = [
    "ASSUMED_MFU",
    "GPUS",
    "Gpu",
    "MemoryEstimate",
    "Precision",
    "TrainingPlan",
    "adapter_parameters",
    "checkpoint_bytes",
    "flops_per_token",
    "gpu_named",
    "grad_accum_steps",
    "hidden_matrices",
    "memory_estimate",
    "memory_of",
    "mfu",
    "num_parameters",
    "parameter_parts",
    "peak_flops",
    "savings_of",
    "tokens_per_run",
    "tokens_per_step",
    "training_plan",
]

ASSUMED_MFU = 0.35
"""Share of the peak a run is taken to reach. Raschka's GPT-2 124M on one A100, 142,000 tokens/s, is 0.39."""

COMMON_GPUS = ("RTX 4090", "RTX 5090", "L40S", "A100", "H100", "H200", "B200")
"""The GPUs a plan estimates the time for."""


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
    savings: tuple[str, ...]
    """What that memory owes to the configuration, in words."""
    checkpoint_bytes: int
    """Of one checkpoint, about."""
    flops: float
    """Of the whole run."""
    assumed_mfu: float
    seconds_by_gpu: dict[str, float]
    """Estimated time of the whole run on `num_gpus` of each of the COMMON_GPUS."""


def flops_per_token(model: ModelConfig, lora: LoraConfig | None = None) -> int:
    """Forward and backward of one token in a full row: 6·N + 12·L·T·D (Chowdhery et al. 2022, PaLM, appendix B).

    Of a frozen base 4·N: it has no gradient; adapters (`lora` of a rank) are N of their own.

    N leaves out what multiplies nothing, the position embedding and the token embedding where it is not the head.
    As usual for MFU the causal half of attention is counted in full and nothing is added for recomputation.
    """
    parts = parameter_parts(model)
    looked_up = parts.get("position_embedding", 0) + (0 if model.tied_head else parts["token_embedding"])
    multiplied = sum(parts.values()) - looked_up
    attended = 12 * model.n_layers * model.max_seq_len * model.d_model
    if lora is not None and lora.rank:
        return 4 * multiplied + 6 * adapter_parameters(model, lora) + attended
    return 6 * multiplied + attended


def mfu(
    tokens_per_second: float, model: ModelConfig, gpu_name: str, num_gpus: int = 1, lora: LoraConfig | None = None
) -> float | None:
    """Share of the peak that a measured speed over all GPUs is; None where the peak is not known."""
    peak = peak_flops(gpu_name)
    return tokens_per_second * flops_per_token(model, lora) / (peak * num_gpus) if peak else None


def memory_of(config: RunConfig, precision: Precision, num_gpus: int = 1) -> MemoryEstimate:
    """Of one of `num_gpus` GPUs that train by `config`, each with its micro-batches; fsdp makes them share."""
    train = config.train
    return memory_estimate(
        config.model,
        train.micro_batch_size,
        precision,
        seq_len=config.seq_len,
        optimizer=config.optim.kind,
        activation_checkpointing=train.activation_checkpointing,
        ranks=num_gpus if train.parallel == "fsdp" else 1,
        accumulates=train.global_batch_size > train.micro_batch_size * num_gpus,
        lora=config.lora,
    )


def savings_of(config: RunConfig, num_gpus: int = 1) -> tuple[str, ...]:
    """Which settings make a step smaller than it would be, in words."""
    spread = config.train.parallel == "fsdp" and num_gpus > 1
    rank, in_4_bits = config.lora.rank, ", the rest in 4 bits" if config.lora.quantize == "4bit" else ""
    return (
        *((f"adapters of rank {rank} alone learn{in_4_bits}",) if rank else ()),
        *((f"weights spread over {num_gpus}",) if spread else ()),
        *(("blocks computed again",) if config.train.activation_checkpointing else ()),
    )


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
    flops = float(tokens_per_run(config)) * flops_per_token(config.model, config.lora)
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
        memory=memory_of(config, precision, num_gpus),
        savings=savings_of(config, num_gpus),
        checkpoint_bytes=checkpoint_bytes(config.model, config.optim.kind, config.lora),
        flops=flops,
        assumed_mfu=ASSUMED_MFU,
        seconds_by_gpu={name: flops / (peak * num_gpus * ASSUMED_MFU) for name, peak in peaks.items() if peak},
    )
