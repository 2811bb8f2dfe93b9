"""A training plan as a page to read before anything is spent. No torch: it only words what trainer.sizing computes."""

from __future__ import annotations

from dataclasses import fields

from trainer.config import RunConfig
from trainer.console import duration, size_text
from trainer.schedule import decay_begins, lr_of
from trainer.sizing import (
    GPUS,
    MemoryEstimate,
    Precision,
    TrainingPlan,
    adapter_parameters,
    flops_per_token,
    memory_of,
    num_parameters,
    parameter_parts,
    savings_of,
)

_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
_CONTEXT_GIB = 1
"""What CUDA itself takes of a GPU, and fragmentation, about."""


def plan_text(plan: TrainingPlan) -> str:
    """Parameters, tokens, steps, memory, FLOPs, and how long it would take on common GPUs."""
    rows = [
        ("parameters", f"{plan.parameters:,}"),
        ("tokens", f"{plan.tokens:,} = {plan.steps:,} steps x {plan.tokens_per_step:,}"),
        ("micro-batches", f"{plan.grad_accum_steps} a step on each of {plan.num_gpus} processes"),
        ("memory", f"{size_text(plan.memory.total)} for each process in {_how(plan)}: {_parts(plan.memory)}"),
        ("compute", f"{plan.flops:.2e} FLOPs"),
    ]
    lines = [f"{name:<14} {text}" for name, text in rows]
    lines.append(f"{'time':<14} at {plan.assumed_mfu:.0%} of the peak:")
    lines += [f"{'':<14} {gpu:<24} {duration(seconds):>8}" for gpu, seconds in plan.seconds_by_gpu.items()]
    return "\n".join(lines)


def _how(plan: TrainingPlan) -> str:
    return ", ".join((plan.precision, *plan.savings))


def _parts(memory: MemoryEstimate) -> str:
    return ", ".join(f"{name} {size_text(size)}" for name, size in _sizes(memory).items() if size)


def _sizes(memory: MemoryEstimate) -> dict[str, int]:
    return {part.name: getattr(memory, part.name) for part in fields(memory)}


def size_text_of(config: RunConfig, num_gpus: int = 1) -> str:
    """Parameters by part, memory by precision, FLOPs per token, and the GPUs one process of `num_gpus` fits on."""
    total = num_parameters(config.model)
    lines = ["parameters"]
    for part, count in {**parameter_parts(config.model), "total": total}.items():
        lines.append(f"  {part.replace('_', ' '):<20} {count:>15,} {count / total:>7.1%}")
    if config.lora.rank:
        learning = adapter_parameters(config.model, config.lora)
        lines.append(f"  {'adapters beside them':<20} {learning:>15,} {learning / total:>7.1%}")
    where = f", on each of {num_gpus} GPUs" if num_gpus > 1 else ""
    how = "".join(f", {saving}" for saving in savings_of(config, num_gpus))
    lines.append(f"memory of a step of {config.train.micro_batch_size} rows of {config.seq_len}{where}{how}")
    estimates = {precision: memory_of(config, precision, num_gpus) for precision in _PRECISIONS}
    columns = {precision: {**_sizes(estimate), "total": estimate.total} for precision, estimate in estimates.items()}
    for part in columns["bf16"]:
        if any(sizes[part] for sizes in columns.values()):
            cells = "".join(f" {precision} {size_text(sizes[part]):>10}" for precision, sizes in columns.items())
            lines.append(f"  {part:<20}{cells}")
    lines.append(
        f"compute              {flops_per_token(config.model, config.lora):,} FLOPs per token, forward and backward"
    )
    for precision, estimate in estimates.items():
        lines.append(f"fits in {precision}         {_fitting(estimate, precision)}")
    return "\n".join(lines)


def schedule_table(config: RunConfig) -> list[tuple[int, float, int]]:
    """(step, learning rate, tokens before it) at the steps where something changes, and evenly between."""
    steps, warmup = config.train.max_steps, config.schedule.warmup_steps
    corners = {0, warmup, decay_begins(steps, config.schedule), steps - 1}
    chosen = sorted({min(step, steps - 1) for step in corners | {steps * tenth // 10 for tenth in range(10)}})
    per_step = config.train.global_batch_size * config.seq_len
    return [(step, lr_of(step, config), step * per_step) for step in chosen]


def _fitting(estimate: MemoryEstimate, precision: Precision) -> str:
    able = [gpu for gpu in GPUS if precision == "fp32" or gpu.half == precision]
    names = [gpu.name for gpu in able if estimate.total <= (gpu.memory_gib - _CONTEXT_GIB) * 2**30]
    return ", ".join(names) or "none of the known GPUs: fewer rows, activation checkpointing, or fsdp over several"
