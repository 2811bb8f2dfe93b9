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
from tests.launcher.command_line import ROOT, Finished, gptops

JOB = """\
  {name}:
    stage: pretrain
    provider: ssh
    host: lan
    resources: {{{resources}}}
    env: {{OMP_NUM_THREADS: 1}}
    sync: {{every_seconds: 1}}
    on_finish: keep
    train:
      model: {{d_model: 16, n_layers: 1, n_heads: 2, max_seq_len: 16}}
      data: {{path: corpus.txt, tokenizer: {{kind: bytes}}}}
      train: {{max_steps: {steps}, global_batch_size: 4, micro_batch_size: 2}}
      schedule: {{warmup_steps: 1}}
      checkpoint: {{every_steps: 3}}
      log: {{every_steps: 1}}
"""


@dataclass
class Lab:
    """Where gptops is called, and the machines it has to do with."""

    folder: Path
    nodes: Nodes
    clock: SystemClock = field(default_factory=SystemClock)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = StatePaths(self.folder / "state")
        self.root = self.folder / "project"
        self.root.mkdir()
        (self.root / "corpus.txt").write_text("To be, or not to be, that is the question.\n" * 200)
        self.write_jobs()

    def write_jobs(self, resources: str = "nodes: 2") -> None:
        """jobs.yaml with the jobs `two` and `long`, every machine under `hosts`, and all of them as the group `lan`."""
        hosts = {f"box{number}": {"host": node.address.host} for number, node in enumerate(self.nodes.all)}
        text = "jobs:\n"
        text += "".join(JOB.format(name=name, resources=resources, steps=n) for name, n in (("two", 6), ("long", 300)))
        text += f"hosts: {json.dumps(hosts)}\ngroups: {json.dumps({'lan': list(hosts)})}\n"
        (self.root / "jobs.yaml").write_text(text)

    @property
    def project(self) -> Project:
        return find_project(self.root)

    def gptops(self, *words: str) -> Finished:
        """The command line, as a process of its own, to its end."""
        return gptops(*words, home=self.state.root, cwd=self.root)

    def started(self, *words: str) -> subprocess.Popen[str]:
        """The same, going on."""
        environment = {**os.environ, "GPTOPS_HOME": str(self.state.root), "PYTHONPATH": str(ROOT)}
        argv, pipe = [sys.executable, "-m", "launcher", *words], subprocess.PIPE
        return subprocess.Popen(argv, env=environment, cwd=self.root, stdout=pipe, stderr=pipe, text=True)

    def up(self, count: int, *, job: str | None = None) -> list[InstanceRow]:
        """`gptops up --nodes COUNT --host lan`, in this process."""
        request = group_request(Flags(host="lan", job=job), count, self.project)
        assert request is not None
        return GroupOpener(self.state, self.clock, self.said.append).open(request)

    def open_hosts(self) -> list[str]:
        with self.ledger() as ledger:
            return [row.name for row in ledger.instances(InstanceState.OPEN)]

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        with Ledger(self.state.ledger, self.clock) as ledger:
            yield ledger


def make_lab(folder: Path, count: int, *, v6: bool = False) -> Iterator[Lab]:
    """For a fixture: a lab with so many machines, until the test has ended; with `v6` they have no IPv4."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    folder.mkdir(exist_ok=True)
    state = StatePaths(folder / "state")
    ensure_key(state.private_key)
    with Nodes(folder / "lan", count, [public_line(state.private_key)], v6=v6) as nodes:
        yield Lab(folder, nodes)
