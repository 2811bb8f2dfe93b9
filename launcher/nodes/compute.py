"""`test-remote` of what stands behind a login node: a small job of its Slurm looks at the machines that would train.

It is submitted as a training is, to the same partition, with the same lines and the same way to meet. Nobody waits for
it longer than agreed: a queue that is full is no fault of the cluster.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from launcher.clock import Clock
from launcher.commands import look as commands
from launcher.commands import preflight as removing
from launcher.commands import runs as run_commands
from launcher.commands.runs import RunFile
from launcher.hosts.preflight_checks import Check, Verdict
from launcher.nodes.compute_checks import Answer, judged
from launcher.nodes.preflight import REDUCE_BYTES
from launcher.paths import RemoteRun
from launcher.remote.transport import Transport
from launcher.running.render import template
from launcher.running.run_env import run_env
from launcher.running.status import Phase, RunStatus, status_of
from launcher.running.stop import stop_run
from launcher.slurm import batch as batches
from launcher.slurm.batch import Batch
from launcher.spec.jobs import JobSpec
from launcher.spec.slurm import SlurmSpec, seconds_of

WAIT_SECONDS = 120.0
"""How long the queue gets, unless told otherwise."""
LOOK_SECONDS = 600
"""The job's time limit: loading torch over NFS on many nodes takes most of it."""
PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class ComputePreflight:
    """One examination of a cluster's machines, as this job would get them."""

    transport: Transport
    """To the login node."""
    job: JobSpec
    slurm: SlurmSpec
    venv: PurePosixPath
    """The environment that setup makes for the job."""
    clock: Clock
    say: Callable[[str], None]
    wait_seconds: float = WAIT_SECONDS

    def checks(self) -> list[Check]:
        """Every row. Raises Unreachable where the login node does not answer."""
        run = RemoteRun(f"preflight-{secrets.token_hex(4)}")
        try:
            return list(self._checks(run))
        finally:
            stop_run(self.transport, run, grace_seconds=0)
            self.transport.run(removing.remove(run.root))

    def _checks(self, run: RemoteRun) -> Iterator[Check]:
        self.say(f"asking Slurm for {self.job.resources.nodes} nodes to look at")
        self.transport.run(commands.install(run, self._files(run)))
        began = self.clock.monotonic()
        submitted = self.transport.run(run_commands.restart_run(run, 1))
        if submitted.exit_code != 0:
            todo = f"correct `slurm` of the host in jobs.yaml; gptops ssh {self.transport.host.name} -- sinfo"
            yield Check("slurm job", Verdict.FAIL, submitted.stderr.strip() or "sbatch refused it", todo)
            return
        status = self._begun(run, began)
        if status.phase is Phase.QUEUED and status.job is not None:
            found = (
                f"its machines were not looked at: {status.job.words()}, after {self.clock.monotonic() - began:.0f} s"
            )
            yield Check("slurm job", Verdict.WARN, found, "try again later, or wait longer: --wait 3600")
            return
        waited = self.clock.monotonic() - began
        status = self._ended(run)
        yield Check("slurm job", Verdict.PASS, f"began after {waited:.0f} s")
        yield from judged(self._answers(run), self.job, status.exit_code, self._last_words(run))

    def _begun(self, run: RemoteRun, since: float) -> RunStatus:
        """When it waits no more, or has waited long enough, or in vain."""
        told = ""
        while True:
            status = self._look(run)
            if status.phase is not Phase.QUEUED or status.job is None or status.job.is_stuck:
                return status
            if status.job.words() != told:
                told = status.job.words()
                self.say(told)
            if self.clock.monotonic() - since >= self.wait_seconds:
                return status
            self.clock.sleep(PAUSE_SECONDS)

    def _ended(self, run: RemoteRun) -> RunStatus:
        self.say("looking at the nodes, the links between them, and an all-reduce")
        deadline = self.clock.monotonic() + LOOK_SECONDS
        while not (status := self._look(run)).is_over and self.clock.monotonic() < deadline:
            self.clock.sleep(PAUSE_SECONDS)
        return status

    def _look(self, run: RemoteRun) -> RunStatus:
        return status_of(self.transport.run(commands.tick(run)), self.transport.host.name)

    def _answers(self, run: RemoteRun) -> dict[str, Answer]:
        lines = (line.partition("\t") for line in self.transport.run(commands.answers(run)).stdout.splitlines())
        return {name: _read(text) for name, _, text in lines}

    def _last_words(self, run: RemoteRun) -> str:
        said = self.transport.run(commands.last_words(run)).stdout.strip().splitlines()
        return said[-1][:300] if said else "it said nothing"

    def _files(self, run: RemoteRun) -> list[RunFile]:
        processes = self.job.processes_per_node * self.job.resources.nodes
        settings = {
            "GPTOPS_RUN_ID": run.run_id,
            "GPTOPS_COMMAND": f"python look.py process {REDUCE_BYTES}",
            "GPTOPS_VENV": f"../venvs/{self.venv.name}",
            "GPTOPS_EXPECTED_PROCESSES": str(processes),
        }
        return [
            RunFile("run.env", run_env(settings), 0o600),
            *(RunFile(name, template(name).encode()) for name in ("run.sh", batches.SCRIPT)),
            RunFile(batches.FILE, self._batch(run).encode()),
            *(RunFile(f"code/{name}", template(name).encode()) for name in ("look.py", "node.py", "preflight.py")),
        ]

    def _batch(self, run: RemoteRun) -> str:
        """The job's own, with a look in front of the training, for some minutes, and never again."""
        look = f'python3 code/look.py node "$GPTOPS_FOLDER/../venvs/{self.venv.name}"'
        limit = min(LOOK_SECONDS, seconds_of(self.slurm.time) if self.slurm.time else LOOK_SECONDS)
        changes = {
            "time": f"{limit // 60}:{limit % 60:02}",
            "shell": (*self.slurm.shell, look),
            "extra": (*self.slurm.extra, "--no-requeue"),
        }
        return Batch(self.job, self.slurm.model_copy(update=changes)).of_run(run.run_id)


def _read(text: str) -> Answer:
    try:
        answer = json.loads(text)
    except ValueError:
        return {"error": f"said {text[:100]!r}"}
    return answer if isinstance(answer, dict) else {"error": f"said {text[:100]!r}"}
