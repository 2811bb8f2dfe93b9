"""What to do next about a run, from what was seen of it: the whole policy of `gptops run`, as one pure function.

It reads from top to bottom: the machine first, then the connection, then money,
then the training. tests/launcher/test_managed_verdict.py is its table.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace

from launcher.errors import ExitCode, GptopsError, OverBudget, RunFailed
from launcher.managed.errand import Crash
from launcher.running.status import STOPPED, NodesStatus, Phase, RunStatus
from trainer.errors import ExitCode as TrainerExitCode

SILENCE_SECONDS = 900.0
"""How long a machine may not answer SSH while its provider says it is there. A reboot takes a few minutes; every hour
of waiting costs what the machine costs."""
FRUITLESS_MOVES = 5
"""Machines in a row without a new checkpoint, after which the fault is taken to be elsewhere."""

REMOVED, KILLED, SPOILED = -1, -2, -3
"""Stand for an exit code where there is none."""
_OUT_OF_MEMORY = re.compile(r"out ?of ?memory|ran out of memory|cannot allocate memory", re.IGNORECASE)
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_HOPELESS = {
    TrainerExitCode.CONFIG: "its configuration was refused",
    TrainerExitCode.DATA: "its data could not be used",
    TrainerExitCode.CHECKPOINT: "its checkpoint could not be used",
    TrainerExitCode.ENGINE: "the training cannot go on like this",
    127: "its program was not found",
}
"""Exit codes that would be the same on every machine."""


class Sight(str, enum.Enum):
    """What the provider says of the machine."""

    THERE = "there"
    SILENT = "silent"
    """It has lost sight of it, too."""
    PREEMPTED = "preempted"
    BROKEN = "broken"
    """Stopped or failed: it will not run by itself again."""
    GONE = "gone"
    UNKNOWN = "unknown"
    """The provider did not answer: most likely it is our own network that is away."""


class Hope(str, enum.Enum):
    """Whether what is not at home can still come."""

    AGAIN = "again"
    """One more transfer may do; they are counted."""
    ROOM = "room"
    """When there is room on a disk."""
    NONE = "none"


class Action(str, enum.Enum):
    """What is done next."""

    WAIT = "wait"
    STOP = "stop"
    """Tell the run to save and end."""
    RESTART = "restart"
    """Start the training again in the same run."""
    AGAIN = "again"
    """A new run on the same machine, from the newest checkpoint at home."""
    MOVE = "move"
    """Give the machine up, and go on elsewhere."""
    FINISH = "finish"
    """The job is done and at home."""
    FAIL = "fail"
    HOLD = "hold"
    """Leave everything as it is, the machine too: a person has to see to it."""


@dataclass(frozen=True)
class Facts:
    """Everything one look found."""

    sight: Sight = Sight.THERE
    detail: str = ""
    """The provider's own words."""
    silent_seconds: float = 0.0
    """Since when the machine does not answer although its provider does."""
    run: RunStatus | None = None
    """None where the machine did not answer."""
    said: str = ""
    """The end of the training's log."""
    trouble: GptopsError | None = None
    """Why not everything that is whole there is at home."""
    hope: Hope = Hope.NONE
    """With `trouble`."""
    spoiled: str = ""
    """The newest checkpoint there, where it is damaged there: nothing can bring it home."""
    used_up: str = ""
    """The limit that is reached."""
    stopping: str = ""
    """The limit for which the run was told to stop."""
    restarts: int = 0
    max_restarts: int = 3
    crash: Crash | None = None
    """The failure before."""
    fruitless: int = 0
    on_cluster: bool = False
    """Slurm has the machines, and looks after them; the login node that does not answer is waited for."""
    gpus: str = ""
    """How busy they are, for people."""
    way_back: str = ""
    """The command that goes on from what is at home, for errors."""


@dataclass(frozen=True)
class Decision:
    """One action, and why."""

    action: Action
    why: str = ""
    error: GptopsError | None = None
    """With FAIL and HOLD; with MOVE where one was met."""
    bad_machine: bool = False
    """With MOVE: it was the machine's fault, and it is not taken again."""
    crash: Crash | None = None
    """With RESTART and AGAIN: what it is for."""
    counts: bool = True
    """With those: it is one of `max_restarts`."""


def verdict(facts: Facts) -> Decision:
    """What to do."""
    lost = _lost_machine(facts)
    if lost is not None:
        return _move(facts, lost, bad_machine=facts.sight is not Sight.PREEMPTED)
    if facts.run is None:
        return Decision(Action.WAIT, "the machine does not answer")
    if not facts.run.is_over:
        return Decision(Action.STOP, facts.used_up) if facts.used_up else Decision(Action.WAIT)
    if facts.trouble is not None:
        return _not_home(facts, facts.trouble)
    return _begun_anew(_ended(facts, facts.run), facts.run)


def _begun_anew(decision: Decision, run: RunStatus) -> Decision:
    """What ran on several nodes is not started again in its folder: it begins anew on the nodes that answer."""
    if decision.action is Action.RESTART and isinstance(run, NodesStatus):
        lost = f": lost {', '.join(run.lost_nodes)}" if run.lost_nodes else ""
        return replace(decision, action=Action.AGAIN, why=decision.why + lost)
    return decision


def given_up(why: str, error: GptopsError, fruitless: int) -> Decision:
    """About a machine that cannot be used although it is there."""
    if fruitless >= FRUITLESS_MOVES:
        return Decision(Action.FAIL, why, error)
    return Decision(Action.MOVE, why, error, bad_machine=True)


def _lost_machine(facts: Facts) -> str | None:
    """Why the machine is to be given up; None while there is hope."""
    said = f": {facts.detail}" if facts.detail else ""
    match facts.sight:
        case Sight.GONE:
            return "the machine is gone"
        case Sight.PREEMPTED:
            return f"the machine was taken back{said}"
        case Sight.BROKEN:
            return f"the machine will not run again{said}"
        case _ if facts.run is None and not facts.on_cluster and facts.silent_seconds >= SILENCE_SECONDS:
            return f"the machine has not answered for {facts.silent_seconds / 60:.0f} minutes"
    return None


def _not_home(facts: Facts, trouble: GptopsError) -> Decision:
    """The training is over, and something of it is on the machine alone."""
    if facts.hope is Hope.AGAIN or (facts.hope is Hope.ROOM and not facts.used_up):
        return Decision(Action.WAIT, trouble.what)
    return Decision(Action.HOLD, trouble.what, trouble)


def _ended(facts: Facts, run: RunStatus) -> Decision:
    if run.has_succeeded and facts.spoiled:
        crash = Crash(exit_code=SPOILED, step=run.step)
        return _counted(
            facts, Action.RESTART, crash, f"`{facts.spoiled}`, its last checkpoint, is damaged on the machine"
        )
    if run.has_succeeded:
        return Decision(Action.FINISH)
    limit = facts.stopping or facts.used_up
    if limit:
        return Decision(Action.FAIL, limit, _over_budget(limit, facts))
    if facts.on_cluster and run.job is not None and run.job.not_requeued and not run.stop_requested:
        crash = Crash(exit_code=STOPPED, step=run.step)
        if facts.crash != crash:  # it gets on, turn by turn: that may be as often as it has to
            why = f"its turn is over, not requeued: {run.job.not_requeued}"
            return Decision(Action.RESTART, why, crash=crash, counts=False)
    if run.was_stopped or (run.job is not None and run.job.was_cancelled):
        return Decision(Action.FAIL, "it was stopped", Stopped("the run was stopped", why="somebody asked it to"))
    if run.phase is Phase.ABSENT:
        return _counted(facts, Action.AGAIN, Crash(exit_code=REMOVED), "the run is not on the machine any more")
    if run.phase is Phase.LOST:
        return _killed(facts, run)
    return _failed(facts, run)


def _killed(facts: Facts, run: RunStatus) -> Decision:
    """The machine was restarted under the training. Where it does that again, it is the machine that is at fault."""
    crash = Crash(exit_code=KILLED, step=run.step)
    if facts.on_cluster:
        said = run.job.words() if run.job is not None else "nothing of it lives"
        return _counted(facts, Action.RESTART, crash, f"the job was lost: {said}")
    what = "everything on the machine was killed"
    if facts.crash == crash or facts.restarts >= facts.max_restarts:
        return _move(facts, f"{what}, again", bad_machine=True)
    return Decision(Action.RESTART, what, crash=crash)


def _failed(facts: Facts, run: RunStatus) -> Decision:
    """The training ended with an error of its own."""
    code = run.exit_code if run.exit_code is not None else -1
    crash = Crash(exit_code=code, step=run.step, lost=tuple(run.lost_nodes) if isinstance(run, NodesStatus) else ())
    what = f"the training failed with exit code {code}" + (f" after step {run.step}" if run.step is not None else "")
    if _DISK_FULL.search(facts.said):
        full, hint = "the disk of the machine is full", "raise resources.disk_gib, or lower checkpoint.keep_last"
        return _counted(facts, Action.RESTART, crash, full, hint)
    if _OUT_OF_MEMORY.search(facts.said):
        hint = "lower train.micro_batch_size, or ask for larger GPUs with resources.gpu_names"
        return Decision(Action.FAIL, what, RunFailed(f"{what}: it ran out of memory", why=facts.said, hint=hint))
    if code in _HOPELESS:
        return Decision(Action.FAIL, what, RunFailed(f"{what}: {_HOPELESS[code]}", why=facts.said))
    return _counted(facts, Action.RESTART, crash, what)


def _counted(facts: Facts, action: Action, crash: Crash, what: str, hint: str = "") -> Decision:
    """Once more, unless it failed like this before, or too often."""
    if facts.crash == crash:
        return Decision(Action.FAIL, what, RunFailed(f"{what}, twice at the same step", why=facts.said, hint=hint))
    if facts.restarts >= facts.max_restarts:
        often = f"{what}, after {facts.restarts} restarts"
        return Decision(Action.FAIL, what, RunFailed(often, why=facts.said, hint=hint or "max_restarts in jobs.yaml"))
    return Decision(action, what, crash=crash)


def _move(facts: Facts, why: str, *, bad_machine: bool) -> Decision:
    limit = facts.stopping or facts.used_up
    if limit:
        return Decision(Action.FAIL, limit, _over_budget(limit, facts))
    if facts.fruitless >= FRUITLESS_MOVES:
        error = RunFailed(
            f"{facts.fruitless + 1} machines in a row were lost without a new checkpoint",
            why=f"the last one: {why}",
            hint="save more often (checkpoint.every_steps), or do not take spot machines",
        )
        return Decision(Action.FAIL, why, error)
    return Decision(Action.MOVE, why, bad_machine=bad_machine)


def _over_budget(limit: str, facts: Facts) -> OverBudget:
    return OverBudget(
        f"the job was ended: {limit}",
        why="what it had saved is at home",
        hint=f"raise `budget` in jobs.yaml, then go on from there: {facts.way_back}",
    )


class Stopped(GptopsError):
    """Somebody stopped the run with `gptops stop`. Not a failure."""

    exit_code = ExitCode.STOPPED
