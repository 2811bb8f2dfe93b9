"""How machines are shown: the columns of `ps`, the words of `down`, and the same as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.books.ledger import InstanceRow, Ledger, RunRow
    from launcher.books.spending import Spent
    from launcher.errors import GptopsError
    from launcher.hosts.down import Ended
    from launcher.slurm.job import SlurmJob

HOST_COLUMNS = ("HOST", "PROVIDER", "STATE", "GPUS", "AGE", "$/H", "$ SO FAR", "ENDS ITSELF", "ADDRESS", "RUNS")


def host_json(row: InstanceRow, runs: list[str], now: float, spent: Spent | None = None) -> dict[str, Any]:
    """One machine of `ps`, for programs. `spent`: what it has cost; none: nothing yet."""
    return {
        "name": row.name,
        "provider": row.provider,
        "state": row.state.value,
        "gpus": row.gpus,
        "gpu_name": row.gpu_name,
        "age_seconds": round(now - row.created_at, 1),
        "price_per_hour": row.price_per_hour,
        "cost_usd": round(spent.total if spent else 0.0, 4),
        "ends_itself_at": row.deadline,
        "spot": row.spot,
        "address": row.address,
        "runs": runs,
    }


def host_cells(row: InstanceRow, runs: list[str], now: float, spent: Spent) -> list[object]:
    """One line of `ps`, in the order of HOST_COLUMNS."""
    age = now - row.created_at
    gpus = f"{row.gpus}x {row.gpu_name}".rstrip() if row.gpus else "none"
    state = {"intended": "opening"}.get(row.state.value, row.state.value)
    return [
        row.name,
        row.provider,
        state,
        gpus,
        duration(age),
        f"{row.price_per_hour:.2f}",
        f"{spent.total:.2f}",
        ends_itself(row, now),
        row.address,
        ", ".join(runs),
    ]


def queued_json(ledger: Ledger, row: InstanceRow, waiting: Mapping[str, SlurmJob]) -> list[dict[str, str]]:
    """The runs on a machine that wait in its queue, for programs."""
    jobs = [(run.run_id, waiting[run.run_id]) for run in ledger.runs(instance_label=row.label) if run.run_id in waiting]
    return [
        {"run_id": run_id, "job_id": job.job_id, "state": job.state, "reason": job.reason, "position": job.position}
        for run_id, job in jobs
    ]


def ends_itself(row: InstanceRow, now: float) -> str:
    """When its dead-man's switch ends it; "" for a machine without one."""
    if row.deadline is None:
        return ""
    return f"in {duration(row.deadline - now)}" if row.deadline > now else "overdue"


def run_words(ledger: Ledger, row: InstanceRow, waiting: Mapping[str, SlurmJob]) -> list[str]:
    """The runs on a machine, with their states; `waiting`: those in a queue."""
    return [f"{run.run_id} ({_state(ledger, run, row, waiting)})" for run in ledger.runs(instance_label=row.label)]


def _state(ledger: Ledger, run: RunRow, row: InstanceRow, waiting: Mapping[str, SlurmJob]) -> str:
    if run.run_id in waiting:
        return waiting[run.run_id].queued()
    nodes = ledger.nodes(run.run_id)
    here = next((node.node for node in nodes if node.instance_label == row.label), None)
    return run.state.value if here is None else f"{run.state.value}, node {here} of {len(nodes)}"


def duration(seconds: float) -> str:
    """For people."""
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // 1440} days"


def told(ended: Ended) -> str:
    """One line about an end."""
    name, row = f"`{ended.row.name}`", ended.row
    if row.provider == "ssh":
        return f"forgot {name}: it is yours, nobody bills it, and its folder `gptops/` stays as it is"
    if not ended.was_there:
        return f"closed {name}: there was nothing to end"
    return f"ended {name}, and it is gone: {duration(ended.hours * 3600)}, ${ended.spent.total:.2f}"


def ended_json(ended: Ended) -> dict[str, Any]:
    """One ended machine of `down`, for programs."""
    return {
        "name": ended.row.name,
        "provider": ended.row.provider,
        "was_there": ended.was_there,
        "hours": round(ended.hours, 4),
        "cost_usd": round(ended.spent.total, 4),
        "gpu_usd": round(ended.spent.gpu, 4),
        "disk_usd": round(ended.spent.disk, 4),
        "bandwidth_usd": round(ended.spent.bandwidth, 4),
    }


def errors_json(failed: list[GptopsError]) -> list[Any]:
    """What went wrong with the others."""
    return [console.error_json(error)["error"] for error in failed]
