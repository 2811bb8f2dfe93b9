"""A user's desk: a project with a jobs.yaml, and a host that is open. `gptops` is called as the user would.

The project brings a small `trainer` of its own, so a run is real in everything
but the learning: uploaded, started by torchrun under run.sh, followed, stopped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.books.ledger import InstanceState, Ledger, RunRow
from launcher.clock import SystemClock
from launcher.paths import RemoteRun
from launcher.running.select import pick_run
from tests.launcher.conftest import SshHost

ROOT = Path(__file__).resolve().parents[2]

CONSOLE_SCRIPT = "import sys; del sys.path[0]; from launcher.cli import main; sys.exit(main())"
"""As pip writes it: unlike with `python -m`, the project's own `trainer` is not on the path."""

JOBS = """\
jobs:
  demo:
    stage: pretrain
    train: {train: {max_steps: 20}, schedule: {warmup_steps: 2}}
"""

ENDLESS = """
import pathlib, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
step = 0
while not asked:
    step += 1
    sys.stdout.buffer.write(b"step %d \\xff\\xc3\\xa9" % step + b"\\n" * (step % 2))
    sys.stdout.buffer.flush()
    time.sleep(0.01)
checkpoint = pathlib.Path("../checkpoints/step_00000007")
checkpoint.mkdir(parents=True)
(checkpoint / "MANIFEST.json").write_text("{}")
print("saved")
sys.exit(75)
"""


@dataclass(frozen=True)
class Desk:
    """Where gptops is called, and what it has to do with."""

    project: Path
    host: SshHost

    def trainer(self, program: str, jobs: str = JOBS) -> None:
        """Write the project: its jobs.yaml, and `program` as its trainer."""
        (self.project / "trainer").mkdir(parents=True, exist_ok=True)
        (self.project / "trainer" / "__init__.py").write_text("")
        (self.project / "trainer" / "__main__.py").write_text(program)
        (self.project / "jobs.yaml").write_text(jobs)

    def gptops(self, *words: str, crash_at: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
        """Call it and wait for its end."""
        command, settings = self._command(words, {"GPTOPS_CRASH_AT": crash_at, **environment})
        return subprocess.run(command, capture_output=True, timeout=120, check=False, **settings)

    @contextmanager
    def start(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Call it and go on meanwhile. What still lives at the end is killed."""
        command, settings = self._command(words, {})
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **settings
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def _command(self, words: tuple[str, ...], environment: dict[str, str]) -> tuple[list[str], dict[str, object]]:
        home = {"GPTOPS_HOME": str(self.host.state.root), "PYTHONPATH": str(ROOT)}
        settings = {"cwd": self.project, "env": {**os.environ, **home, **environment}, "stdin": subprocess.DEVNULL}
        return [sys.executable, "-c", CONSOLE_SCRIPT, *words], settings

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        with Ledger(self.host.state.ledger, SystemClock()) as ledger:
            yield ledger

    def runs(self) -> list[RunRow]:
        """The runs of this project, oldest first."""
        with self.ledger() as ledger:
            return [row for row in ledger.runs() if row.project_root == str(self.project)]

    def run(self, name: str) -> RunRow:
        with self.ledger() as ledger:
            return pick_run(ledger, name)

    def remote(self, run_id: str) -> Path:
        """The run's folder on the host."""
        return self.host.home / RemoteRun(run_id).root

    def remote_log(self, run_id: str) -> Path:
        return self.host.home / RemoteRun(run_id).log

    def local_log(self, run_id: str) -> Path:
        return self.project / "runs" / run_id / "train.log"


def register(host: SshHost) -> None:
    """Write the host into its state's ledger as open, as `gptops up` would have."""
    label = host.instance.label
    with Ledger(host.state.ledger, SystemClock()) as ledger:
        if label not in {row.label for row in ledger.instances()}:
            ledger.intend_instance(
                label=label, name=host.host.name, provider="local", project="tests",
                price_per_hour=0.0, gpus=0, gpu_name="",
            )  # fmt: skip
            ledger.mark_instance(label, InstanceState.OPEN, instance_id=host.instance.instance_id)
