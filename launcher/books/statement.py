"""What was spent, line by line: by run, host, day or month. The same dollars each way.

Days and months are UTC's, as the providers' bills are.
"""

from __future__ import annotations

import datetime
import enum
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from launcher.books.ledger import InstanceState, Ledger, RunRow
from launcher.books.spending import Life, Spent, spent_by_run


class By(str, enum.Enum):
    """What has a line of its own."""

    RUN = "run"
    HOST = "host"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True)
class Line:
    """One line of a statement."""

    name: str
    """The run, the host, `2026-11-22` or `2026-11`."""
    spent: Spent
    hours: float
    host: str = ""
    provider: str = ""
    state: str = ""
    run: RunRow | None = None
    labels: tuple[str, ...] = ()
    """Of a run: all its machines."""


def statement(ledger: Ledger, lives: Sequence[Life], now: float, by: By) -> list[Line]:
    """Oldest first. A run on several machines has one line; what a machine cost while none went on has one too."""
    if by is By.HOST:
        return [_host_line(each) for each in lives]
    if by is By.RUN:
        shares = {each.row.label: spent_by_run(ledger, each.row.label, now) for each in lives}
        return [line for each in lives for line in _run_lines(ledger, each, shares)]
    return _calendar(lives, _day if by is By.DAY else _month)


def total(lines: Sequence[Line]) -> Spent:
    """The sum."""
    return sum((line.spent for line in lines), Spent())


def _host_line(each: Life) -> Line:
    row = each.row
    return Line(row.name, each.spent, (each.end - each.begin) / 3600, row.name, row.provider, row.state.value)


def _run_lines(ledger: Ledger, each: Life, shares: Mapping[str, Mapping[str | None, Spent]]) -> Iterator[Line]:
    row, own = each.row, shares[each.row.label]
    for run in ledger.runs(instance_label=row.label):
        if run.instance_label == row.label:  # on its other machines it was told already, or will be
            yield _run_line(ledger, each, run, shares)
    rest = own.get(None, Spent())
    if rest.total > 0 or (len(own) == 0 and row.state is not InstanceState.CLOSED):
        yield Line("", rest, 0.0, row.name, row.provider, "no run")


def _run_line(ledger: Ledger, each: Life, run: RunRow, shares: Mapping[str, Mapping[str | None, Spent]]) -> Line:
    labels = tuple(ledger.machines(run))
    end = each.end if run.ended_at is None else run.ended_at
    whole = sum((shares[label].get(run.run_id, Spent()) for label in labels if label in shares), Spent())
    hosts = ", ".join(node.host_name for node in ledger.nodes(run.run_id)) or each.row.name
    hours = max(0.0, end - run.created_at) / 3600
    return Line(run.run_id, whole, hours, hosts, each.row.provider, run.state.value, run, labels)


def _calendar(lives: Sequence[Life], next_of: Callable[[float], tuple[str, float]]) -> list[Line]:
    sums: dict[str, Spent] = defaultdict(Spent)
    hours: dict[str, float] = defaultdict(float)
    for each in lives:
        moment = each.begin
        while moment <= each.end:
            name, until = next_of(moment)
            # What was moved after the end (the clock was off) belongs to the last part.
            is_last = until > each.end
            sums[name] += each.within(float("-inf") if moment == each.begin else moment, _FOREVER if is_last else until)
            hours[name] += max(0.0, min(until, each.end) - moment) / 3600
            moment = until
    return [Line(name, sums[name], hours[name]) for name in sorted(sums)]


_FOREVER = float("inf")


def _day(moment: float) -> tuple[str, float]:
    """The day's name, and when the next one begins."""
    date = _utc(moment).date()
    return date.isoformat(), _begin(date + datetime.timedelta(days=1))


def _month(moment: float) -> tuple[str, float]:
    date = _utc(moment).date().replace(day=1)
    return date.isoformat()[:7], _begin((date + datetime.timedelta(days=32)).replace(day=1))


def _utc(moment: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(moment, datetime.timezone.utc)


def _begin(date: datetime.date) -> float:
    return datetime.datetime(date.year, date.month, date.day, tzinfo=datetime.timezone.utc).timestamp()
