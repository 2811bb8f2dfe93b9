"""How an errand looks while it goes on: the values of a live view, and the lines they make. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.books.ledger import InstanceRow
from launcher.managed.errand import Errand
from launcher.managed.verdict import Facts, Sight
from launcher.running.status import Phase
from trainer.manifest import step_name

_LINE = re.compile(r"^step (\d+)/(\d+)\s+loss ([\d.]+|nan|inf)", re.MULTILINE)
_ETA = re.compile(r"^step .*\beta (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class View:
    """What is shown, as values. What is not known is ""."""

    job: str
    run: str
    host: str
    price: str
    spent: str
    state: str
    step: str = ""
    loss: str = ""
    eta: str = ""
    gpus: str = ""
    home: str = ""
    deadline: str = ""

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Title and value, for a terminal."""
        rows = [
            ("job", f"{self.job}  {self.run}"),
            ("host", f"{self.host}  {self.price}  {self.state}"),
            ("spent", self.spent),
            ("step", self.step),
            ("loss", self.loss),
            ("eta", self.eta),
            ("GPUs", self.gpus),
            ("at home", self.home),
            ("ends itself", self.deadline),
        ]
        return [(title, value.strip()) for title, value in rows if value.strip()]

    @property
    def line(self) -> str:
        """All of it in one line, where there is no terminal."""
        parts = [
            self.run,
            self.host,
            self.state,
            f"step {self.step}" if self.step else "",
            f"loss {self.loss}" if self.loss else "",
            f"eta {self.eta}" if self.eta else "",
            f"at home {self.home}",
            self.spent,
        ]
        return "  ".join(part for part in parts if part)


def view_of(
    errand: Errand,
    rows: Sequence[InstanceRow],
    facts: Facts,
    *,
    names: Sequence[str],
    spent: float,
    limit: float | None,
    newest: int,
    now: float,
) -> View:
    """The view after one look. `rows`: the machine at work and those of its group; `names`: where the run is."""
    price, ends = sum(row.price_per_hour for row in rows), [row.deadline for row in rows if row.deadline is not None]
    trained = list(_LINE.finditer(facts.said))
    eta = _ETA.findall(facts.said)
    known = facts.run.step if facts.run is not None else None
    step = f"{trained[-1][1]}/{trained[-1][2]}" if trained else "" if known is None else str(known)
    return View(
        job=errand.job + (f" ({errand.position + 1} of {len(errand.jobs)})" if len(errand.jobs) > 1 else ""),
        run=errand.run_id,
        host=", ".join(names),
        price=f"${price:.2f}/h" if price else "nobody bills it",
        spent=f"${spent:.2f}" + (f" of ${limit:.2f}" if limit is not None else ""),
        state=_state(facts),
        step=step,
        loss=trained[-1][3] if trained else "",
        eta=eta[-1] if eta else "",
        gpus=facts.gpus,
        home=step_name(newest) if newest >= 0 else "nothing yet",
        deadline=f"in {_hours(min(ends) - now)}" if ends else "",
    )


def _state(facts: Facts) -> str:
    if facts.run is not None:
        if facts.stopping and not facts.run.is_over:
            return "saving, to end"
        return facts.run.job.queued() if facts.run.phase is Phase.QUEUED and facts.run.job else facts.run.phase.value
    if facts.sight is Sight.UNKNOWN:
        return "the provider does not answer"
    if facts.silent_seconds:
        return f"no answer for {facts.silent_seconds:.0f} s"
    return str(facts.sight.value)


def _hours(seconds: float) -> str:
    minutes = max(0, int(seconds // 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
