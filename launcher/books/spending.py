"""What machines have cost: GPUs, disk and bandwidth apart, from the ledger's prices, times and transfers.

An estimate, and never too low on purpose: a machine counts from the intent until
its end was seen, at its whole price unless it was seen stopped, although markets
ask only for the disk while an image loads. The provider's bill is the truth.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, PriceRow, RunRow, TransferRow

BYTES_PER_GB = 1e9
"""Markets sell bandwidth by the decimal gigabyte."""


@dataclass(frozen=True)
class Spent:
    """US dollars."""

    gpu: float = 0.0
    disk: float = 0.0
    bandwidth: float = 0.0

    @property
    def total(self) -> float:
        return self.gpu + self.disk + self.bandwidth

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.gpu + other.gpu, self.disk + other.disk, self.bandwidth + other.bandwidth)


@dataclass(frozen=True)
class Period:
    """A stretch of one machine's life in which its price did not change."""

    begin: float
    end: float
    gpu_per_hour: float
    disk_per_hour: float

    def within(self, begin: float, end: float) -> Spent:
        """What the part of it between two moments cost."""
        hours = max(0.0, min(self.end, end) - max(self.begin, begin)) / 3600
        return Spent(self.gpu_per_hour * hours, self.disk_per_hour * hours)


@dataclass(frozen=True)
class Life:
    """One machine, and all that is known of its cost until now."""

    row: InstanceRow
    periods: tuple[Period, ...]
    transfers: tuple[TransferRow, ...]

    @property
    def begin(self) -> float:
        return self.row.created_at

    @property
    def end(self) -> float:
        """Its end, or now."""
        return self.periods[-1].end

    def within(self, begin: float, end: float) -> Spent:
        """What it cost between two moments; the second one belongs to what follows."""
        moved = [self._price_of(transfer) for transfer in self.transfers if begin <= transfer.at < end]
        return sum((period.within(begin, end) for period in self.periods), Spent(bandwidth=sum(moved)))

    @property
    def spent(self) -> Spent:
        """All of it; what was transferred when the clock was off too."""
        return self.within(float("-inf"), float("inf"))

    @property
    def per_hour(self) -> float:
        """What it costs an hour as things stand; 0 when it is closed."""
        if self.row.state is InstanceState.CLOSED:
            return 0.0
        return self.periods[-1].gpu_per_hour + self.periods[-1].disk_per_hour

    def _price_of(self, transfer: TransferRow) -> float:
        usd_per_gb = self.row.upload_usd_per_gb if transfer.direction == "up" else self.row.download_usd_per_gb
        return transfer.bytes / BYTES_PER_GB * usd_per_gb


def life(ledger: Ledger, label: str, now: float) -> Life:
    """The machine with this label. One that was asked for and never came to be (closed without an id) cost nothing."""
    row = ledger.instance(label)
    transfers = tuple(ledger.transferred(label))
    return Life(row, tuple(_periods(row, ledger.prices(label), now)), transfers)


def lives(ledger: Ledger, now: float) -> list[Life]:
    """All machines there ever were, oldest first."""
    return [life(ledger, row.label, now) for row in ledger.instances(*InstanceState)]


def spent(ledger: Ledger, label: str, now: float) -> Spent:
    """What one machine has cost."""
    return life(ledger, label, now).spent


def spent_in_all(ledger: Ledger, now: float, since: float = float("-inf")) -> Spent:
    """What all of them have cost, or have since some moment."""
    return sum((each.within(since, float("inf")) for each in lives(ledger, now)), Spent())


def spent_by_run(ledger: Ledger, label: str, now: float) -> dict[str | None, Spent]:
    """What one machine cost by run; under None what it cost while none went on.

    Runs that share a moment share its price in equal parts; bytes belong to the run whose time they fall in, after the
    last run's end to that one, whose checkpoints they are.
    """
    whole, runs = life(ledger, label, now), ledger.runs(instance_label=label)
    shares: dict[str | None, Spent] = {run.run_id: Spent() for run in runs}
    for begin, end in _cuts(whole, runs):
        time = Spent(*(sum(parts) for parts in zip(*_time(whole, begin, end), strict=True)))
        going: list[str | None] = [run.run_id for run in runs if _goes(run, begin, whole.end)]
        for run_id in going or [None]:
            share = 1 / (len(going) or 1)
            shares[run_id] = shares.get(run_id, Spent()) + Spent(time.gpu * share, time.disk * share)
    for transfer in whole.transfers:
        run_id = _whose(transfer, runs, whole.end)
        shares[run_id] = shares.get(run_id, Spent()) + Spent(bandwidth=whole._price_of(transfer))
    return shares


def spent_on_run(ledger: Ledger, run: RunRow, now: float) -> Spent:
    """What all machines of a run cost while it went on; its share, where other runs went on there too."""
    shares = (spent_by_run(ledger, label, now).get(run.run_id, Spent()) for label in ledger.machines(run))
    return sum(shares, Spent())


def _periods(row: InstanceRow, prices: Sequence[PriceRow], now: float) -> Iterator[Period]:
    """From the intent to the end. A clock that was put back makes a period empty, never negative."""
    end = max(row.created_at, now if row.closed_at is None else row.closed_at)
    never_was = row.state is InstanceState.CLOSED and row.instance_id is None
    if never_was or not prices:
        gpu = 0.0 if never_was else max(0.0, row.price_per_hour - row.disk_per_hour)
        yield Period(row.created_at, end, gpu, 0.0 if never_was else row.disk_per_hour)
        return
    begins = [row.created_at, *(min(max(price.since, row.created_at), end) for price in prices[1:])]
    for begin, until, price in zip(begins, [*begins[1:], end], prices, strict=True):
        yield Period(begin, until, price.gpu_per_hour, price.disk_per_hour)


def _cuts(whole: Life, runs: Iterable[RunRow]) -> list[tuple[float, float]]:
    """The machine's life, cut where a run begins or ends."""
    moments = {whole.begin, whole.end}
    for run in runs:
        moments |= {run.created_at, whole.end if run.ended_at is None else run.ended_at}
    inside = sorted(moment for moment in moments if whole.begin <= moment <= whole.end)
    return list(itertools.pairwise(inside))


def _time(whole: Life, begin: float, end: float) -> list[tuple[float, float]]:
    return [(part.gpu, part.disk) for part in (period.within(begin, end) for period in whole.periods)]


def _goes(run: RunRow, moment: float, end: float) -> bool:
    return run.created_at <= moment < (end if run.ended_at is None else run.ended_at)


def _whose(transfer: TransferRow, runs: Sequence[RunRow], end: float) -> str | None:
    going = [run for run in runs if _goes(run, transfer.at, end)]
    before = [run for run in runs if run.created_at <= transfer.at]
    return (going or before)[-1].run_id if going or before else None
