"""How money is shown: the columns of `cost` and `gc`, and the same as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import console
from launcher.books.statement import By

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.books.budget import Limits
    from launcher.books.spending import Life, Spent
    from launcher.books.statement import Line
    from launcher.errors import GptopsError
    from launcher.hosts.gc import Collected, Found, Survey

SUMS = ("GPU $", "DISK $", "BANDWIDTH $", "TOTAL $")
COLUMNS = {
    By.RUN: ("RUN", "HOST", "STATE", "HOURS", *SUMS, "CAP $", "OF CAP"),
    By.HOST: ("HOST", "PROVIDER", "STATE", "HOURS", *SUMS),
    By.DAY: ("DAY", "HOURS", *SUMS),
    By.MONTH: ("MONTH", "HOURS", *SUMS),
}
FOUND_COLUMNS = ("WHAT", "HOST", "PROVIDER", "ID", "$/H", "WHY")


def cost_cells(line: Line, by: By, cap_usd: float | None) -> list[object]:
    """One line of `cost`, in the order of COLUMNS."""
    hours = f"{line.hours:.1f}" if line.name else ""
    sums = [*_dollars(line.spent)]
    if by is By.RUN:
        of_cap = f"{line.spent.total / cap_usd:.0%}" if cap_usd else ""
        return [line.name or "(none)", line.host, line.state, hours, *sums, f"{cap_usd:.2f}" if cap_usd else "", of_cap]
    if by is By.HOST:
        return [line.name, line.provider, line.state, hours, *sums]
    return [line.name, hours, *sums]


def total_cells(spent: Spent, by: By) -> list[object]:
    """The last line."""
    before = COLUMNS[by].index(SUMS[0])
    after = len(COLUMNS[by]) - before - len(SUMS)
    return ["total", *[""] * (before - 1), *_dollars(spent), *[""] * after]


def _dollars(spent: Spent) -> list[str]:
    return [f"{value:.2f}" for value in (spent.gpu, spent.disk, spent.bandwidth, spent.total)]


def cost_json(
    lines: Sequence[Line],
    whole: Spent,
    opened: Sequence[Life],
    caps: Mapping[str, Limits],
    left: Mapping[str, float],
) -> dict[str, Any]:
    """The whole of `cost`, for programs."""
    per_hour = sum(each.per_hour for each in opened)
    return {
        "lines": [_line_json(line, caps, left) for line in lines],
        "total": spent_json(whole),
        "open": [
            {"name": each.row.name, "provider": each.row.provider, "per_hour": round(each.per_hour, 4)}
            for each in opened
        ],
        "open_per_hour": round(per_hour, 4),
        "open_per_day": round(per_hour * 24, 4),
    }


def _line_json(line: Line, caps: Mapping[str, Limits], left: Mapping[str, float]) -> dict[str, Any]:
    value: dict[str, Any] = {"name": line.name, "hours": round(line.hours, 4), **spent_json(line.spent)}
    if line.host:
        value |= {"host": line.host, "provider": line.provider, "state": line.state}
    if line.run is not None:
        cap = caps.get(line.run.run_id)
        value |= {
            "job": line.run.job,
            "cap_usd": cap.max_usd if cap else None,
            "cap_hours": cap.max_hours if cap else None,
            "hours_left": round(left[line.run.run_id], 4) if line.run.run_id in left else None,
        }
    return value


def spent_json(spent: Spent) -> dict[str, float]:
    """GPU, disk and bandwidth apart."""
    return {
        "gpu_usd": round(spent.gpu, 4),
        "disk_usd": round(spent.disk, 4),
        "bandwidth_usd": round(spent.bandwidth, 4),
        "total_usd": round(spent.total, 4),
    }


def open_words(opened: Sequence[Life]) -> str:
    """What is open now and what it costs."""
    if not opened:
        return "nothing is open: nothing bills"
    per_hour = sum(each.per_hour for each in opened)
    names = ", ".join(f"`{each.row.name}`" for each in opened)
    return f"open now: {names}: ${per_hour:.2f}/h, ${per_hour * 24:.2f} a day"


def found_cells(what: str, found: Found) -> list[object]:
    """One line of `gc`, in the order of FOUND_COLUMNS."""
    price = f"{found.price_per_hour:.2f}"
    return [what, found.name, found.provider, found.instance_id or "", price, found.why]


def found_lines(survey: Survey) -> list[list[object]]:
    """Everything that is not as it should be."""
    groups = (
        ("interrupted", survey.interrupted),
        ("leaked", survey.leaked),
        ("not ours", survey.unknown),
        ("gone", survey.gone),
    )
    return [found_cells(what, found) for what, group in groups for found in group]


def gc_json(survey: Survey, done: Collected) -> dict[str, Any]:
    """The whole of `gc`, for programs."""
    settled = {id(found) for found in [*done.ended, *done.closed]}
    groups = {"interrupted": survey.interrupted, "leaked": survey.leaked, "unknown": survey.unknown}
    left = {name: [_found_json(each) for each in group if id(each) not in settled] for name, group in groups.items()}
    return {
        "ended": [_found_json(each) for each in done.ended],
        "closed": [_found_json(each) for each in done.closed],
        "left": left,
        "kept": [row.name for row in survey.kept],
        "busy": [row.name for row in survey.busy],
        "errors": [
            *[{"provider": name, **_error_json(error)} for name, error in survey.unasked],
            *[{"provider": each.provider, "name": each.name, **_error_json(error)} for each, error in done.failed],
        ],
    }


def _found_json(found: Found) -> dict[str, Any]:
    return {
        "provider": found.provider,
        "name": found.name,
        "label": found.label,
        "instance_id": found.instance_id,
        "price_per_hour": found.price_per_hour,
        "why": found.why,
    }


def _error_json(error: GptopsError) -> dict[str, Any]:
    value: dict[str, Any] = console.error_json(error)["error"]
    return value
