"""A training plan as a page to read before anything is spent. No torch: it only words what trainer.sizing computes."""

from __future__ import annotations

from trainer.console import duration, size_text
from trainer.sizing import TrainingPlan


def plan_text(plan: TrainingPlan) -> str:
    """Parameters, tokens, steps, memory, FLOPs, and how long it would take on common GPUs."""
    rows = [
        ("parameters", f"{plan.parameters:,}"),
        ("tokens", f"{plan.tokens:,} = {plan.steps:,} steps x {plan.tokens_per_step:,}"),
        ("micro-batches", f"{plan.grad_accum_steps} a step on each of {plan.num_gpus} GPUs"),
        ("memory", f"{size_text(plan.memory.total)} on each GPU in {plan.precision} ({_parts(plan)})"),
        ("compute", f"{plan.flops:.2e} FLOPs"),
    ]
    lines = [f"{name:<14} {text}" for name, text in rows]
    lines.append(f"{'time':<14} at {plan.assumed_mfu:.0%} of the peak:")
    lines += [f"{'':<14} {gpu:<24} {duration(seconds):>8}" for gpu, seconds in plan.seconds_by_gpu.items()]
    return "\n".join(lines)


def _parts(plan: TrainingPlan) -> str:
    parts = {name: getattr(plan.memory, name) for name in ("weights", "gradients", "moments", "activations")}
    return ", ".join(f"{name} {size_text(size)}" for name, size in parts.items())
