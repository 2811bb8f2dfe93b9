"""The dead-man's switch of a machine: what it is told, and what it answers. templates/deadman.sh is the switch.

It watches on the machine itself, so that a dead laptop cannot cost a night. At
its deadline, or when nothing ran and nobody came for a while, it lets the runs
save and end, waits until every checkpoint is verified at home or the money is
used up, and ends the bill with the key that the provider put on the machine.
Where it cannot (Lambda Cloud, a machine of yours), it stops runs and no more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from launcher.books.audit import audit
from launcher.books.ledger import InstanceRow, Ledger
from launcher.clock import Clock
from launcher.commands import deadman as commands
from launcher.errors import HostUnfit, UsageError
from launcher.paths import RemoteRun, StatePaths
from launcher.providers.base import OffSwitch
from launcher.providers.by_name import ends_as, ends_together
from launcher.remote.transport import Result, Transport
from launcher.running.render import template

DEFAULT_HOURS = 24.0
"""Where no budget says less: a forgotten machine costs a day, and each visit starts the day anew."""
DEFAULT_IDLE_MINUTES = 30
SAVE_SECONDS = 300
"""What a run gets to save at the deadline; launcher.running.stop gives as much."""
LONGEST_WAIT_SECONDS = 1800.0
"""Between stopping the runs and the end of the bill, for checkpoints to come home."""
_WAIT_SHARE = 0.25
"""Of a short life, at most this part goes into waiting."""

API_URLS: Mapping[OffSwitch, tuple[str, str]] = {
    OffSwitch.VAST: ("VAST_URL", "https://console.vast.ai"),
    OffSwitch.RUNPOD: ("RUNPOD_REST_URL", "https://api.runpod.io/v2"),
}
"""The variable that overrides it, and the vendor's own: providers/vast.py and runpod.py have the same."""


@dataclass(frozen=True)
class SwitchPlan:
    """When a machine ends itself, counted from the moment of arming. 0 seconds: never."""

    off_switch: OffSwitch
    deadline_seconds: int
    """Then every run is stopped, with time to save."""
    final_seconds: int
    """Then the bill ends, whatever is not at home."""
    idle_seconds: int
    renewable: bool
    """Each visit counts the deadlines anew: where no budget sets them."""
    pulse_seconds: int = 15
    """Between two looks."""

    @property
    def text(self) -> str:
        """As deadman.sh reads it."""
        lines = {
            "kind": self.off_switch.value,
            "api": _api_url(self.off_switch),
            "deadline": self.deadline_seconds,
            "final": self.final_seconds,
            "idle": self.idle_seconds,
            "save": SAVE_SECONDS,
            "pulse": self.pulse_seconds,
            "renewable": "yes" if self.renewable else "no",
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())


@dataclass(frozen=True)
class Switch:
    """What a switch says of itself."""

    phase: str
    """armed, stopping, saving, ending or over."""
    why: str
    """deadline or idle, once it has fired."""
    watching: bool
    """Its process lives."""
    can_end: bool
    """It has found a key to end the bill with."""
    final_left_seconds: int | None
    """None: it has no deadline."""


def switch_plan(
    off_switch: OffSwitch, *, hours: float | None = None, idle_minutes: float | None = DEFAULT_IDLE_MINUTES
) -> SwitchPlan:
    """The plan for a machine that bills. `hours`: what the budget leaves of its life; None: no budget, a day at most.

    `idle_minutes` None or 0: a machine on which nothing runs stays until its deadline.
    """
    final = max(60.0, (DEFAULT_HOURS if hours is None else hours) * 3600)
    deadline = final - min(LONGEST_WAIT_SECONDS, final * _WAIT_SHARE)
    return SwitchPlan(off_switch, int(deadline), int(final), int((idle_minutes or 0) * 60), renewable=hours is None)


def arm(transport: Transport, plan: SwitchPlan) -> Switch:
    """Put the switch on the machine and arm it. Again, it takes the new plan and stays one process.

    Raises HostUnfit where the machine cannot keep it.
    """
    _require(transport.run(commands.install(template("deadman.sh"))), transport.host.name)
    return _require(transport.run(commands.arm(plan.text)), transport.host.name)


def limit_run(transport: Transport, run: RemoteRun, hours: float) -> Switch:
    """Let the machine itself stop one run in that time, whatever becomes of this computer. Ends nothing else."""
    _require(transport.run(commands.install(template("deadman.sh"))), transport.host.name)
    return _require(transport.run(commands.limit(run, max(1, int(hours * 3600)))), transport.host.name)


def renew(transport: Transport, run: RemoteRun, at_home: Mapping[str, str]) -> Switch | None:
    """Tell the switch that somebody came, and which checkpoints of `run` are safe. None where there is no switch."""
    return _answer(transport.run(commands.visit(run, at_home)))


def read(transport: Transport) -> Switch | None:
    """What the switch says; None where there is none."""
    return _answer(transport.run(commands.status()))


@dataclass(frozen=True)
class Armer:
    """Arms machines and writes down when they end themselves."""

    ledger: Ledger
    state: StatePaths
    clock: Clock
    say: Callable[[str], None]

    def arm(
        self,
        row: InstanceRow,
        off_switch: OffSwitch,
        transport: Transport,
        *,
        hours: float | None = None,
        idle_minutes: float | None = DEFAULT_IDLE_MINUTES,
    ) -> InstanceRow:
        """Arm the switch of a machine that bills; one that nobody bills needs none. The row, with its deadline.

        For `hours` see switch_plan. Called again, the new plan counts.
        """
        if ends_together(row.provider, row.group_name):
            off_switch = OffSwitch.NONE  # it would end the others, whose checkpoints it cannot know to be at home
        if row.price_per_hour <= 0 and off_switch not in API_URLS:
            return row
        plan = switch_plan(off_switch, hours=hours, idle_minutes=idle_minutes)
        switch = arm(transport, plan)
        audit(self.state.audit_log, self.clock, "armed", name=row.name, seconds=plan.final_seconds)
        self._tell(row, plan, switch)
        return note_deadline(self.ledger, self.clock, row.label, switch)

    def _tell(self, row: InstanceRow, plan: SwitchPlan, switch: Switch) -> None:
        idle = f", or when nothing runs and nobody comes for {plan.idle_seconds // 60} min" if plan.idle_seconds else ""
        at_most = f"in {plan.final_seconds / 3600:.1f} h at most{idle}"
        if switch.can_end:
            self.say(f"`{row.name}` ends itself {at_most}")
        else:
            ending = ends_as(row.provider, row.name, row.group_name)
            reason = "has no key for it" if plan.off_switch in API_URLS else f"`{row.provider}` gives it no way to"
            self.say(
                f"warning: `{row.name}` cannot end its own bill: it {reason}. It stops its runs {at_most}; "
                f"the bill of ${row.price_per_hour:.2f}/h ends with `gptops down {ending}` alone"
            )


def note_deadline(ledger: Ledger, clock: Clock, label: str, switch: Switch) -> InstanceRow:
    """Keep the deadline that the switch tells, for `gptops ps`. None where it cannot end the bill."""
    ends = switch.can_end and switch.watching and switch.final_left_seconds is not None
    return ledger.set_deadline(label, clock.now() + (switch.final_left_seconds or 0) if ends else None)


def _api_url(off_switch: OffSwitch) -> str:
    if off_switch not in API_URLS:
        return ""
    variable, own = API_URLS[off_switch]
    url = (os.environ.get(variable) or own).rstrip("/")
    if not re.fullmatch(r"https?://[A-Za-z0-9.:/_~\[\]-]+", url):
        raise UsageError(f"{variable} is no URL: {url!r}", hint=f"unset {variable}")
    return url


def _require(result: Result, name: str) -> Switch:
    if result.exit_code != 0:
        why = result.stderr.strip().splitlines()[-1:] or [f"deadman.sh ended with code {result.exit_code}"]
        raise HostUnfit(
            f"`{name}` cannot keep a dead-man's switch",
            why=why[0],
            hint=f"gptops ssh {name} -- df -h .",
        )
    return _answer(result) or Switch("", "", watching=False, can_end=False, final_left_seconds=None)


def _answer(result: Result) -> Switch | None:
    facts = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
    if facts.get("end") != "yes":
        return None
    left = facts.get("final_left", "")
    return Switch(
        phase=facts.get("phase", ""),
        why=facts.get("why", ""),
        watching=facts.get("watching") == "yes",
        can_end=facts.get("can_end") == "yes",
        final_left_seconds=int(left) if left.isdecimal() and len(left) < 12 else None,
    )
