"""An errand is one `gptops run JOB [JOB…]`: everything of it that must outlive the process.

It stands in the ledger as JSON text, written before each step. Nothing here acts;
whatever the ledger's other tables, the provider or the host know is not repeated.
"""

from __future__ import annotations

import enum
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from launcher.books.ledger import ErrandRow, ErrandState, Ledger
from launcher.errors import ExitCode, LocalFault
from trainer.config import Model


class Step(str, enum.Enum):
    """What the errand does next for its current job."""

    RENT = "rent"
    CHECK = "check"
    TRAIN = "train"
    WATCH = "watch"
    LEAVE = "leave"
    """End the machine; then the errand is over where it has an ending, else it rents the next one."""


class Crash(Model):
    """How a training failed, as far as it can be told from the next failure."""

    exit_code: int
    step: int | None = None
    lost: tuple[str, ...] = ()
    """Machines that were lost with it: that another one goes at the same step is not the training's fault."""


class Ending(Model):
    """Why the errand is over, in the words of an error."""

    exit_code: int = 0
    what: str = ""
    why: str = ""
    hint: str = ""


class Errand(Model):
    """Where one errand stands."""

    errand_id: str
    project_root: str
    jobs: tuple[str, ...]
    position: int = 0
    """Which of the jobs is at work."""
    step: Step = Step.RENT
    host_name: str
    """What each of its machines is called: a killed gptops finds the one it was opening by this."""
    label: str = ""
    """The machine at work; "" while there is none."""
    run_id: str = ""
    """The run at work; written before anything of it exists."""
    attempt: int = 1
    """Of that run: the start that is meant, so that asking twice starts it once."""
    runs: tuple[str, ...] = ()
    """Every run of the current job, oldest first: their checkpoints are what it can go on from."""
    labels: tuple[str, ...] = ()
    """Every machine of the current job."""
    job_began: float | None = None
    spent_before: float = 0.0
    """What its machines had cost before the current job began: the job before it paid that."""
    stopping: str = ""
    """Why the run was told to stop: a limit that is used up."""
    restarts: int = 0
    """Of a crashed training."""
    crash: Crash | None = None
    """The last one."""
    moves: int = 0
    """Machines given up."""
    fruitless: int = 0
    """Machines given up one after the other without a new checkpoint at home."""
    newest_step: int = -1
    """Of the current job at home, when it last moved."""
    lost: bool = False
    """With LEAVE: the machine cannot be asked what lies on it alone."""
    ending: Ending | None = None

    @property
    def job(self) -> str:
        """The job at work."""
        return self.jobs[self.position]

    @property
    def is_last(self) -> bool:
        """No job follows."""
        return self.position + 1 == len(self.jobs)

    @property
    def is_over(self) -> bool:
        """Nothing is left to be done."""
        return self.ending is not None and self.step is not Step.LEAVE

    def now(self, **changes: object) -> Errand:
        """The same with some fields changed."""
        return self.model_validate({**self.model_dump(), **changes})

    def with_run(self, run_id: str) -> Errand:
        """About to start this run."""
        return self.now(run_id=run_id, runs=(*self.runs, run_id), attempt=1)

    def with_machines(self, labels: Sequence[str]) -> Errand:
        """At work on these: the first stands for all that were opened with it."""
        new = [label for label in labels if label not in self.labels]
        return self.now(label=labels[0], labels=(*self.labels, *new), step=Step.CHECK)

    def for_next_job(self, labels: Sequence[str], spent_on_them: float) -> Errand:
        """The next job's beginning, on the machines at hand, whose bill so far is the job's before it."""
        return Errand(
            errand_id=self.errand_id,
            project_root=self.project_root,
            jobs=self.jobs,
            position=self.position + 1,
            host_name=self.host_name,
            label=self.label,
            labels=tuple(labels),
            spent_before=spent_on_them,
        )

    def over(self, ending: Ending) -> Errand:
        """About to end: the machine goes first."""
        return self.now(ending=ending, step=Step.LEAVE)


def begin(ledger: Ledger, project_root: Path, jobs: Sequence[str], resume: str | None = None) -> Errand:
    """A new errand, on the disk. `resume`: the run whose newest checkpoint at home the first job goes on from."""
    unique = secrets.token_hex(2)
    errand_id = f"{jobs[0].lower()}-{unique}"
    name = "".join(sign if sign.isalnum() else "-" for sign in jobs[0].lower())[:30].strip("-")
    errand = Errand(
        errand_id=errand_id,
        project_root=str(project_root),
        jobs=tuple(jobs),
        host_name=f"{name or 'run'}-{unique}",
        runs=(resume,) if resume else (),
    )
    ledger.add_errand(errand_id, str(project_root), errand.model_dump_json())
    return errand


def save(ledger: Ledger, errand: Errand) -> Errand:
    """On the disk when this returns."""
    state = ErrandState.GOING
    if errand.is_over:
        assert errand.ending is not None
        state = ErrandState.ENDED if errand.ending.exit_code in (ExitCode.OK, ExitCode.STOPPED) else ErrandState.FAILED
    ledger.mark_errand(errand.errand_id, state=state, content=errand.model_dump_json())
    return errand


def going(ledger: Ledger, project_root: Path, jobs: Sequence[str]) -> Errand | None:
    """The errand that the same words began in this project and that is not over; the newest."""
    for errand in reversed(all_going(ledger)):
        if errand.project_root == str(project_root) and errand.jobs == tuple(jobs):
            return errand
    return None


def all_going(ledger: Ledger) -> list[Errand]:
    """Every errand that is not over, oldest first."""
    return [read(row) for row in ledger.errands(ErrandState.GOING)]


def read(row: ErrandRow) -> Errand:
    """The errand of a row. Raises LocalFault where a newer gptops wrote it."""
    try:
        return Errand.model_validate_json(row.content)
    except ValidationError as error:
        raise LocalFault(
            f"this gptops cannot read the errand `{row.errand_id}`",
            why=f"{error.error_count()} of its fields are not known here; a newer gptops wrote them",
            hint="pip install --upgrade gptops; what it has open: gptops ps",
        ) from error


def lock_name(errand: Errand) -> str:
    """Of the lock that whoever works on it holds."""
    digest = hashlib.sha256(os.fsencode(errand.project_root)).hexdigest()[:8]
    return f"errand-{errand.errand_id}-{digest}.lock"
