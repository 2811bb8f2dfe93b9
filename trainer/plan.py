"""A training plan as a page to read before anything is spent. No torch: it only words what trainer.sizing computes."""

from __future__ import annotations

from dataclasses import fields

from trainer.console import duration, size_text
from trainer.sizing import MemoryEstimate, TrainingPlan


def plan_text(plan: TrainingPlan) -> str:
    """Parameters, tokens, steps, memory, FLOPs, and how long it would take on common GPUs."""
    rows = [
        ("parameters", f"{plan.parameters:,}"),
        ("tokens", f"{plan.tokens:,} = {plan.steps:,} steps x {plan.tokens_per_step:,}"),
        ("micro-batches", f"{plan.grad_accum_steps} a step on each of {plan.num_gpus} processes"),
        ("memory", f"{size_text(plan.memory.total)} for each process in {plan.precision}: {_parts(plan.memory)}"),
        ("compute", f"{plan.flops:.2e} FLOPs"),
    ]
    lines = [f"{name:<14} {text}" for name, text in rows]
    lines.append(f"{'time':<14} at {plan.assumed_mfu:.0%} of the peak:")
    lines += [f"{'':<14} {gpu:<24} {duration(seconds):>8}" for gpu, seconds in plan.seconds_by_gpu.items()]
    return "\n".join(lines)


def _parts(memory: MemoryEstimate) -> str:
    sizes = {part.name: getattr(memory, part.name) for part in fields(memory)}
    return ", ".join(f"{name} {size_text(size)}" for name, size in sizes.items())
