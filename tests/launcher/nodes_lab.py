"""A project, a user's state, and a group of machines that are really there (tests/doubles/nodes.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.clock import SystemClock
from launcher.nodes.opening import GroupOpener
from launcher.nodes.request import group_request
from launcher.paths import StatePaths
from launcher.project import Project, find_project
from launcher.remote.keys import ensure_key, public_line
from launcher.spec.host_request import Flags
from tests.doubles.nodes import Nodes, reason_to_skip
from tests.launcher.command_line import ROOT, Finished
from tests.launcher.desk import CONSOLE_SCRIPT
from tests.launcher.workshop import write_stand_ins

JOB = """\
  {name}:
    stage: pretrain
    provider: ssh
    host: lan
    resources: {{{resources}}}
    env: {{OMP_NUM_THREADS: 1{env}}}
    sync: {{every_seconds: 1}}
    on_finish: {on_finish}
    train:
      model: {{d_model: 16, n_layers: 1, n_heads: 2, max_seq_len: 16}}
      data: {{path: corpus.txt, tokenizer: {{kind: bytes}}}}
      train: {{max_steps: {steps}, global_batch_size: 12, micro_batch_size: 2}}
      schedule: {{warmup_steps: 1}}
      checkpoint: {{every_steps: 3}}
      log: {{every_steps: 1}}
"""


@dataclass
class Lab:
    """Where gptops is called, and the machines it has to do with."""

    folder: Path
    nodes: Nodes
    stand_ins: bool = False
    """The project brings a trainer and a torchrun that obey the test (tests/launcher/workshop.py): torch is slow."""
    clock: SystemClock = field(default_factory=SystemClock)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = StatePaths(self.folder / "state")
        self.root = self.folder / "project"
        self.root.mkdir()
        (self.root / "corpus.txt").write_text("To be, or not to be, that is the question.\n" * 200)
        self.gate = self.folder / "gate"
        self.gate.mkdir()
        if self.stand_ins:
            write_stand_ins(self.root)
        self.write_jobs()

    def write_jobs(self, resources: str = "nodes: 2", *, on_finish: str = "keep") -> None:
        """jobs.yaml with the jobs `two` and `long`, every machine under `hosts`, and all of them as the group `lan`."""
        hosts = {f"box{number}": {"host": node.address.host} for number, node in enumerate(self.nodes.all)}
        text = "jobs:\n"
        env = f', GATE: {self.gate}, STEPS: "8", PYTHONPATH: code' if self.stand_ins else ""
        for name, steps in (("two", 6), ("long", 300)):
            text += JOB.format(name=name, resources=resources, steps=steps, env=env, on_finish=on_finish)
        text += f"hosts: {json.dumps(hosts)}\ngroups: {json.dumps({'lan': list(hosts)})}\n"
        (self.root / "jobs.yaml").write_text(text)

    @property
    def project(self) -> Project:
        return find_project(self.root)

    def gptops(self, *words: str, crash_at: str = "") -> Finished:
        """The command line, as a process of its own, to its end."""
        with self.started(*words, crash_at=crash_at) as process:
            stdout, stderr = process.communicate()
        return Finished(process.returncode, stdout, stderr)

    def started(self, *words: str, crash_at: str = "") -> subprocess.Popen[str]:
        """The same, going on."""
        ours = {"GPTOPS_HOME": str(self.state.root), "PYTHONPATH": str(ROOT), "GPTOPS_CRASH_AT": crash_at}
        environment, pipe = {**os.environ, **ours}, subprocess.PIPE
        argv = [sys.executable, "-c", CONSOLE_SCRIPT, *words]
        return subprocess.Popen(argv, env=environment, cwd=self.root, stdout=pipe, stderr=pipe, text=True)

    def up(self, count: int, *, job: str | None = None) -> list[InstanceRow]:
        """`gptops up --nodes COUNT --host lan`, in this process."""
        request = group_request(Flags(host="lan", job=job), count, self.project)
        assert request is not None
        return GroupOpener(self.state, self.clock, self.said.append).open(request)

    def allow(self, step: int | None) -> None:
        """How far stand-ins may train; None: to the end."""
        fresh = self.gate / ".limit"
        fresh.write_text("" if step is None else str(step))
        fresh.replace(self.gate / "limit")

    def open_hosts(self) -> list[str]:
        with self.ledger() as ledger:
            return [row.name for row in ledger.instances(InstanceState.OPEN)]

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        with Ledger(self.state.ledger, self.clock) as ledger:
            yield ledger


def make_lab(folder: Path, count: int, *, v6: bool = False, stand_ins: bool = False) -> Iterator[Lab]:
    """For a fixture: a lab with so many machines, until the test has ended; with `v6` they have no IPv4."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    folder.mkdir(exist_ok=True)
    state = StatePaths(folder / "state")
    ensure_key(state.private_key)
    with Nodes(folder / "lan", count, [public_line(state.private_key)], v6=v6) as nodes:
        yield Lab(folder, nodes, stand_ins)
