"""A laptop with two projects, and a real Slurm it may log in to: one project trains for real, the other one obeys.

The obedient trainer and its torchrun are those of tests.launcher.workshop: real checkpoints, no torch, and no step
beyond what a test allows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.paths import REMOTE_ROOT
from launcher.remote.keys import ensure_key, public_line
from tests.doubles.slurm import Slurm, reason_to_skip
from tests.launcher.command_line import Finished
from tests.launcher.waiting import wait_until
from tests.launcher.workshop import TRAINER, Workshop
from trainer import manifest

NODES = 2

TORCHRUN = """
import os, sys
words = [word for word in sys.argv[1:] if not word.startswith("--")]
os.environ["RANK"] = os.environ["GROUP_RANK"] = os.environ["SLURM_NODEID"]
os.execvp(words[0], words)
"""

SAYS_ITS_RANK = """
import os
if "RANK" in os.environ:
    print("this is rank", os.environ["RANK"], flush=True)
"""

HOSTS = """\
hosts:
  cluster: &login
    host: {host}
    scheduler: slurm
    slurm: {{partition: debug, extra: ["--cpus-per-task=2"], shell: ["export FROM_THE_HOST=1"]}}
  short:
    host: {host}
    scheduler: slurm
    slurm:
      partition: debug
      time: "1:00"
      signal_seconds: 59
      shell: ['[ -z "${{SLURM_RESTART_COUNT-}}" ] || rm -f "{gate}/limit"']
  nowhere: {{host: {host}, scheduler: slurm, slurm: {{partition: no-such-partition}}}}
  closed: {{host: {host}, scheduler: slurm, slurm: {{partition: closed}}}}
"""

REAL_JOBS = """\
jobs:
  tiny:
    stage: pretrain
    provider: ssh
    host: cluster
    resources: {nodes: 2}
    sync: {every_seconds: 1}
    env: {OMP_NUM_THREADS: 1, NASTY: "it's $(touch evil)", PYTHONPATH: .}
    train:
      model: {d_model: 16, n_layers: 1, n_heads: 2, max_seq_len: 16}
      data: {path: corpus.txt, tokenizer: {kind: bytes}}
      train: {max_steps: 6, global_batch_size: 4, micro_batch_size: 2}
      schedule: {warmup_steps: 1}
      checkpoint: {every_steps: 3}
      log: {every_steps: 1}
"""


@dataclass
class Lab:
    """The cluster, and what is on the laptop."""

    slurm: Slurm
    real: Path
    obedient: Workshop

    def gptops(self, *words: str) -> Finished:
        """In the project whose trainer obeys."""
        return self.obedient.gptops(*words)

    def start(self, *overrides: str, job: str = "demo", host: str = "cluster") -> str:
        """`gptops train`, detached; the run's id."""
        started = self.gptops("train", job, "--host", host, "--skip-setup", "--detach", *overrides)
        assert started.exit_code == 0, started.stderr
        return started.stdout.strip()

    def runs(self, job: str) -> set[str]:
        """The ids of the job's runs that were submitted."""
        found = (self.slurm.login.home / REMOTE_ROOT).glob(f"{job}-*/status/slurm_job")
        return {path.parents[1].name for path in found}

    def remote(self, run_id: str) -> Path:
        """The run's folder on the cluster."""
        return self.slurm.login.home / REMOTE_ROOT / run_id

    def fact(self, run_id: str, name: str) -> str:
        path = self.remote(run_id) / "status" / name
        return path.read_text().strip() if path.exists() else ""

    def log(self, run_id: str) -> str:
        path = self.remote(run_id) / "logs" / "train.log"
        return path.read_text() if path.exists() else ""

    def steps(self, run_id: str) -> list[int]:
        """What is whole there."""
        return [manifest.verify(path).step for path in manifest.checkpoints(self.remote(run_id) / "checkpoints")]

    def status(self, run_id: str) -> dict[str, object]:
        """As the login node tells it."""
        text = self.slurm.call("sh", f"{self.slurm.login.home_there}/{REMOTE_ROOT}/{run_id}/run.sh", "status")
        return dict(line.split("=", 1) for line in text.splitlines())

    def await_step(self, run_id: str, step: int) -> None:
        wait_until(lambda: f"step {step}/" in self.log(run_id), what=f"step {step} of {run_id}: {self.log(run_id)}")

    def await_gone(self, run_id: str) -> None:
        """Until Slurm has nothing of it in its queue."""
        wait_until(lambda: self.fact(run_id, "slurm_job") not in self.slurm.jobs(), what=f"the end of {run_id}")

    def signal(self, run_id: str, name: str) -> None:
        """As Slurm sends it before a time limit."""
        self.slurm.call("scancel", "--batch", f"--signal={name}", self.fact(run_id, "slurm_job"))

    @contextmanager
    def steps_up_to(self, last: int) -> Iterator[None]:
        """The trainings of the block go no further; afterwards to their end."""
        self.obedient.allow(last)
        try:
            yield
        finally:
            self.obedient.allow(None)


def make_lab(folder: Path) -> Iterator[Lab]:
    """A cluster whose login node is open. Skips where there can be none."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    obedient = Workshop(folder, where="ssh", steps=8)
    ensure_key(obedient.state.private_key)
    with Slurm(folder / "cluster", NODES, [public_line(obedient.state.private_key)]) as slurm:
        (slurm.login.home / "scratch").mkdir()
        (slurm.login.home / REMOTE_ROOT).symlink_to("scratch")  # as docs/slurm.md tells those with small homes
        hosts = HOSTS.format(host=slurm.login.address.host, gate=obedient.gate)
        (obedient.root / "torch" / "distributed" / "run.py").write_text(TORCHRUN)
        deaf = "    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the real one, under Slurm\n    sys.exit(75)"
        (obedient.root / "trainer" / "__main__.py").write_text(TRAINER.replace("    sys.exit(75)", deaf))
        jobs = obedient.root / "jobs.yaml"
        jobs.write_text(jobs.read_text().replace("provider: ssh", "provider: ssh\n    host: cluster") + hosts)
        real = folder / "my project's"
        real.mkdir()
        (real / "jobs.yaml").write_text(REAL_JOBS + hosts)
        (real / "sitecustomize.py").write_text(SAYS_ITS_RANK)
        (real / "corpus.txt").write_text("To be, or not to be, that is the question.\n" * 200)
        lab = Lab(slurm, real, obedient)
        opened = lab.gptops("up", "--host", "cluster")
        assert opened.exit_code == 0, opened.stderr
        yield lab


def answer(done: Finished) -> dict[str, object]:
    """What --json said."""
    found: dict[str, object] = json.loads(done.stdout)
    return found
