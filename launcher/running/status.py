"""What a run does, as its host tells it: one command, and an answer for everything that can come back.

The host's `status/` files are the truth about what runs; run.sh reads them and
looks at the processes themselves. Whatever the answer's text, it becomes a
RunStatus; only a host that does not answer is an error.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from launcher.commands import runs as commands
from launcher.errors import GptopsError, HostUnfit, Unreachable
from launcher.paths import RemoteRun
from launcher.remote.several import Several
from launcher.remote.together import each
from launcher.remote.transport import Result, Transport
from launcher.slurm.job import SlurmJob, job_of
from trainer.errors import ExitCode as TrainerExitCode

STOPPED = 75
"""The trainer's exit code after SIGTERM and a saved checkpoint (trainer.errors.ExitCode.STOPPED)."""
_ENDED_BY_SIGNAL = frozenset({128 + 9, 128 + 15})
_TIMEOUT_SECONDS = 30.0


class Phase(str, enum.Enum):
    """Where a run stands."""

    ABSENT = "absent"
    """The host has no such run: it was never started there, or was removed."""
    QUEUED = "queued"
    """A scheduler has it, and nothing of it runs (any more): it waits for its turn."""
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"
    """Nothing of it lives and nothing says how it ended: the machine restarted, or everything was killed."""


@dataclass(frozen=True)
class RunStatus:
    """One moment of a run. What is not known is None."""

    phase: Phase
    alive: bool = False
    """A process of the run, or what looks after it, is there; checked, not remembered."""
    exit_code: int | None = None
    """Of the training; the first failure's where there are several processes."""
    stop_requested: bool = False
    processes: int = 0
    """Living processes, the starter's included."""
    attempt: int = 0
    """How often it was started."""
    started_at: int | None = None
    ended_at: int | None = None
    heartbeat_age_seconds: int | None = None
    """By the host's own clock."""
    log_bytes: int = 0
    step: int | None = None
    """The newest step in metrics.jsonl."""
    checkpoint_step: int | None = None
    """The newest whole checkpoint on the host."""
    job: SlurmJob | None = None
    """Where Slurm has its machines: what Slurm says of it."""

    @property
    def is_over(self) -> bool:
        """No more log and no more checkpoints will come of it."""
        return self.phase in (Phase.ENDED, Phase.LOST, Phase.ABSENT)

    @property
    def has_succeeded(self) -> bool:
        return self.phase is Phase.ENDED and self.exit_code == 0

    @property
    def was_stopped(self) -> bool:
        """It ended because it was asked to, whether it had something to save yet or not."""
        if self.phase is not Phase.ENDED:
            return False
        return self.exit_code == STOPPED or (self.stop_requested and self.exit_code in _ENDED_BY_SIGNAL)


@dataclass(frozen=True)
class NodesStatus(RunStatus):
    """One moment of a run on several nodes, as of one run."""

    nodes: tuple[tuple[str, str], ...] = ()
    """Each node's name and phase; `silent` where it does not answer."""

    @property
    def lost_nodes(self) -> tuple[str, ...]:
        """Those that do not answer, or of whose part nothing lives and nothing says how it ended."""
        return tuple(name for name, phase in self.nodes if phase in ("silent", Phase.LOST.value))

    @property
    def is_in_part(self) -> bool:
        """One node has begun, and another that answers has not: whoever started them did not come to its end."""
        phases = {phase for _, phase in self.nodes} - {"silent"}
        return Phase.ABSENT.value in phases and len(phases) > 1


def read_status(transport: Transport, run: RemoteRun) -> RunStatus:
    """What the host says now; of several nodes, what those say that answer. Raises Unreachable or HostRefused where
    nobody says anything."""
    if isinstance(transport, Several):
        nodes = transport.nodes
        return status_of_nodes(transport.names, each(transport.names, lambda node: read_status(nodes[node], run)))
    result = transport.run(commands.read_status(run), timeout_seconds=_TIMEOUT_SECONDS)
    return status_of(result, transport.host.name)


def status_of_nodes(names: Sequence[str], answers: Sequence[RunStatus | GptopsError]) -> NodesStatus:
    """What the nodes say, as of one run. Raises an error that is no silence, or where all are silent."""
    errors = [answer for answer in answers if isinstance(answer, GptopsError)]
    said = [answer for answer in answers if isinstance(answer, RunStatus)]
    for error in errors:
        if not isinstance(error, Unreachable) or not said:
            raise error
    phases = tuple(
        (name, answer.phase.value if isinstance(answer, RunStatus) else "silent")
        for name, answer in zip(names, answers, strict=True)
    )
    first = next((status for status in said if status.phase is not Phase.ABSENT), said[0])
    known = {part.name: getattr(first, part.name) for part in fields(RunStatus)}
    return replace(
        NodesStatus(**known),
        phase=_phase_of_all(said),
        alive=any(status.alive for status in said),
        exit_code=_exit_code_of_all(said),
        stop_requested=any(status.stop_requested for status in said),
        processes=sum(status.processes for status in said),
        ended_at=max((status.ended_at for status in said if status.ended_at is not None), default=None),
        nodes=phases,
    )


def _phase_of_all(said: Sequence[RunStatus]) -> Phase:
    """It lives while a part of it lives. What ended with a word has ended, though another part was lost."""
    phases = {status.phase for status in said}
    for phase in (Phase.RUNNING, Phase.STARTING, Phase.ENDED, Phase.LOST):
        if phase in phases:
            return phase
    return Phase.ABSENT


def _exit_code_of_all(said: Sequence[RunStatus]) -> int | None:
    """The first failure that is a node's own; else that a peer was lost; else that it was stopped; else success."""
    ended = sorted((s for s in said if s.exit_code is not None), key=lambda status: status.ended_at or 0)
    codes = [status.exit_code for status in ended]
    own = [code for code in codes if code not in (0, STOPPED, TrainerExitCode.PEER_LOST)]
    for code in (*own, TrainerExitCode.PEER_LOST, STOPPED, 0):
        if code is not None and code in codes:
            return int(code)
    return None


def status_of(result: Result, host_name: str) -> RunStatus:
    """The answer of `run.sh` in whatever state the run is. Raises HostUnfit where the script could not answer."""
    facts = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
    if facts.get("end") == "yes":
        return parse_status(facts)
    if _has_no_run(result):
        return RunStatus(Phase.ABSENT)
    last_words = result.stderr.strip().splitlines()
    raise HostUnfit(
        f"`{host_name}` cannot tell how the run is",
        why=last_words[-1] if last_words else f"run.sh ended with code {result.exit_code} and said nothing",
        hint=f"gptops ssh {host_name} -- df -h .",
    )


def parse_status(facts: Mapping[str, str]) -> RunStatus:
    """The facts as a RunStatus. Total: what is missing or garbled is unknown."""
    alive = facts.get("alive") == "yes"
    attempt, job = _number(facts, "attempt") or 0, job_of(facts)
    phase = _phase(facts.get("phase", ""), alive, attempt)
    return RunStatus(
        phase=Phase.QUEUED if job is not None and job.waits and phase in (Phase.STARTING, Phase.RUNNING) else phase,
        alive=alive,
        exit_code=_number(facts, "exit_code"),
        stop_requested=_number(facts, "stop_requested") is not None,
        processes=_number(facts, "processes") or 0,
        attempt=attempt,
        started_at=_number(facts, "started_at"),
        ended_at=_number(facts, "ended_at"),
        heartbeat_age_seconds=_number(facts, "heartbeat_age"),
        log_bytes=_number(facts, "log_bytes") or 0,
        step=_number(facts, "step"),
        checkpoint_step=_number(facts, "checkpoint"),
        job=job,
    )


def _phase(written: str, alive: bool, attempt: int) -> Phase:
    if written == Phase.ENDED.value:
        return Phase.ENDED
    if alive:
        return Phase.RUNNING if written == Phase.RUNNING.value else Phase.STARTING
    return Phase.LOST if attempt else Phase.ABSENT


def _number(facts: Mapping[str, str], name: str) -> int | None:
    text = facts.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _has_no_run(result: Result) -> bool:
    """`sh` found no run.sh (dash answers 2, bash 127), or run.sh no run.env."""
    if result.exit_code == 69:
        return "there is no run.env" in result.stderr
    return result.exit_code in (2, 127) and "run.sh" in result.stderr
