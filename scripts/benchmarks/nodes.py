"""What gptops adds to starting a training on two nodes, in turn with bare torchrun on the same two; and how much of
the link an all-reduce uses.

The nodes are network namespaces of this machine with a real sshd each (tests/doubles/nodes.py). The training is one
all-reduce, so everything else is the start. `seconds` are those from the beginning to the first all-reduce, of each the
quickest of some rounds: whatever else the machine does only adds. `added` are those until gptops has told both nodes to
start and has their answer: from there on the same torchrun runs. `…_over_bare` is 1 + added / bare: on two cores the
import of torch, four times over, varies by more than what is looked for.

    bare     torchrun on both, over connections that are open, with its program, its port and its interface for nothing
    by_hand  the same by somebody who first copies the project there by rsync, logging in
    start    run.sh and torchrun on both nodes, for a run that is prepared
    train    what `gptops train` does on open nodes: upload, set-up, comparing, meeting, preparing, start
    command  `gptops train JOB --detach` as a process, with its imports and its question which nodes answer

Efficiency is the all-reduce's bus bandwidth, as nccl-tests reckons it, over what one TCP connection between the two
carries in the slower direction: on a link held to 1 Gbit/s, and on the bare one between two namespaces. That one is
copying of memory by the same cores that run both nodes, and an all-reduce copies in both directions at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from launcher.books.ledger import InstanceRow, Ledger, RunState
from launcher.clock import SystemClock
from launcher.commands import runs as commands
from launcher.nodes.launching import NodesMeans, launch_on_nodes
from launcher.nodes.meeting import Place, free_port, meet, order_of, places_of
from launcher.nodes.opening import GroupOpener, connected
from launcher.nodes.request import group_request
from launcher.paths import RemoteRun, StatePaths
from launcher.project import find_project
from launcher.remote.keys import ensure_key, public_line
from launcher.remote.several import Several
from launcher.remote.together import together
from launcher.remote.transport import Command
from launcher.running.launch_request import LaunchRequest, plan_of
from launcher.spec.host_request import Flags
from tests.doubles.nodes import Nodes, reason_to_skip

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3
LINK_BYTES = 64 << 20
PROGRAM = """
import time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
tensor = torch.ones(1 << 22)
dist.all_reduce(tensor)
done = time.time()
dist.barrier()
began = time.perf_counter()
for _ in range(5):
    dist.all_reduce(tensor)
seconds = (time.perf_counter() - began) / 5
if dist.get_rank() == 0:
    print("DONE", done, tensor.nbytes / seconds, flush=True)  # for two: 2 (n - 1) / n = 1
dist.destroy_process_group()
"""
_LAUNCHER = "import sys; sys.path.remove(''); from launcher.__main__ import run; run()"
"""The project's `trainer` would be found before ours."""


@dataclass(frozen=True)
class Told:
    """What PROGRAM printed."""

    done: float
    bytes_per_second: float


@dataclass(frozen=True)
class Took:
    """Seconds of one start."""

    whole: float
    added: float


class Bench:
    """Two nodes that are open, and a project whose trainer is PROGRAM."""

    def __init__(self, folder: Path, nodes: Nodes, state: StatePaths) -> None:
        self.nodes, self.state, self.clock = nodes, state, SystemClock()
        self.root = folder / "project"
        (self.root / "trainer").mkdir(parents=True)
        (self.root / "trainer" / "__init__.py").write_text("")
        (self.root / "trainer" / "__main__.py").write_text(PROGRAM)
        hosts = {f"box{number}": {"host": node.address.host} for number, node in enumerate(nodes.all)}
        job = "jobs: {two: {stage: pretrain, provider: ssh, resources: {nodes: 2}, env: {OMP_NUM_THREADS: 1}}}"
        (self.root / "jobs.yaml").write_text(f"{job}\nhosts: {json.dumps(hosts)}\ngroups: {{lan: [box0, box1]}}\n")
        for node in nodes.all:
            (node.home / "program.py").write_text(PROGRAM)
        request = group_request(Flags(host="lan"), 2, find_project(self.root))
        assert request is not None
        rows = GroupOpener(self.state, self.clock, lambda _line: None).open(request)
        with connected(rows, self.state, self.clock) as there:
            places = places_of(there, [row.inside for row in rows])
        order = order_of(places)
        self.rows: Sequence[InstanceRow] = [rows[node] for node in order]
        self.places: Sequence[Place] = [places[node] for node in order]

    def train(self, number: int) -> tuple[Took, RemoteRun]:
        began, run_id = time.time(), f"two-{number}"
        with Ledger(self.state.ledger, self.clock) as ledger, connected(self.rows, self.state, self.clock) as there:
            plan, _ = plan_of(
                LaunchRequest("two"), start=self.root, environment=os.environ, ledger=ledger, run_id=run_id,
                choose=lambda _name, _count: self.rows,
            )  # fmt: skip
            means = NodesMeans(Several(there), ledger, self.state, self.clock, lambda _line: None)
            launch_on_nodes(replace(plan, host_name="lan"), self.rows, means)
        added = time.time() - began
        return Took(self.finished(RemoteRun(run_id), 1).done - began, added), RemoteRun(run_id)

    def command(self) -> Took:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, "-c", _LAUNCHER, "train", "two", "--detach"]
        began = time.time()
        done = subprocess.run(argv, env=environment, cwd=self.root, check=True, capture_output=True, text=True)
        added = time.time() - began
        return Took(self.finished(RemoteRun(done.stdout.strip()), 1).done - began, added)

    def start(self, run: RemoteRun) -> Took:
        """The second attempt of a run."""
        with connected(self.rows, self.state, self.clock) as there:
            self._together(lambda node: there[node].run(commands.read_status(run)))  # log in
            began = time.time()
            self._together(lambda node: there[node].run(commands.restart_run(run, 2)))
            added = time.time() - began
            return Took(self.finished(run, 2).done - began, added)

    def bare(self) -> Took:
        with connected(self.rows, self.state, self.clock) as there:
            lines = self._torchrun(free_port(there[0], self.places[0], None), "program.py")
            self._together(lambda node: there[node].run(Command(("true",))))  # log in
            began = time.time()
            answers = self._together(lambda node: there[node].run(lines[node], timeout_seconds=120))
        return Took(_told(answers[0].stdout).done - began, 0.0)

    def by_hand(self) -> Took:
        files = [f"./{path.relative_to(self.root)}" for path in self.root.rglob("*.*") if path.is_file()]
        with connected(self.rows[:1], self.state, self.clock) as [first]:
            lines = self._torchrun(free_port(first, self.places[0], None), "by-hand/trainer/__main__.py")
        began = time.time()
        with connected(self.rows, self.state, self.clock) as there:
            self._together(lambda node: there[node].push(files, self.root, PurePosixPath("by-hand")))
            added = time.time() - began
            answers = self._together(lambda node: there[node].run(lines[node], timeout_seconds=120))
            return Took(_told(answers[0].stdout).done - began, added)

    def finished(self, run: RemoteRun, times: int) -> Told:
        """What it told last. Waits until all its processes have gone, and notes its end as `gptops train` would."""
        log = self.nodes[0].home / run.log
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            told = log.read_text(errors="replace") if log.exists() else ""
            phases = [node.home / run.status / "phase" for node in self.nodes.all]
            if told.count("DONE") == times and all(path.read_text() == "ended\n" for path in phases):
                with Ledger(self.state.ledger, self.clock) as ledger:
                    ledger.mark_run(run.root.name, RunState.ENDED, exit_code=0)
                return _told(told)
            time.sleep(0.01)
        raise AssertionError(f"it did not end: {told}")

    def efficiency(self, run: RemoteRun, attempt: int) -> dict[str, float]:
        """Of the link as it is now, by another attempt of `run`."""
        with connected(self.rows, self.state, self.clock) as there:
            self._together(lambda node: there[node].run(commands.restart_run(run, attempt)))
            bus = self.finished(run, attempt).bytes_per_second
            [link] = meet(there, self.places, free_port(there[0], self.places[0], None), size=LINK_BYTES)
        slower = min(link.there_bytes_per_second, link.back_bytes_per_second)
        found = {"all_reduce_mb_per_second": bus / 1e6, "link_mb_per_second": slower / 1e6, "efficiency": bus / slower}
        return {name: round(value, 2) for name, value in found.items()}

    def hold_links_to(self, rate: str) -> None:
        """What every node sends, from here on."""
        for node in self.nodes.all:
            limit = ("rate", rate, "burst", "1mb", "latency", "50ms")
            node.call("tc", "qdisc", "add", "dev", node.interface, "root", "tbf", *limit)

    def _torchrun(self, port: int, program: str) -> list[Command]:
        lines = [
            f"GLOO_SOCKET_IFNAME={place.interface} OMP_NUM_THREADS=1 python -m torch.distributed.run --nnodes=2"
            f" --node-rank={node} --nproc-per-node=1 --local-addr={place.address} --rdzv-backend=c10d"
            f" --rdzv-endpoint={self.places[0].address}:{port} --rdzv-conf=is_host={int(node == 0)} {program}"
            for node, place in enumerate(self.places)
        ]
        return [Command(("sh", "-c", line)) for line in lines]

    def _together(self, act: Callable[[int], T]) -> list[T]:
        return together([row.name for row in self.rows], act)


def _told(text: str) -> Told:
    last = [line for line in text.splitlines() if line.startswith("DONE")][-1].split()
    return Told(float(last[1]), float(last[2]))


def measured(bench: Bench) -> dict[str, object]:
    """All of it, in turn."""
    took: dict[str, list[Took]] = {"bare": [], "by_hand": [], "start": [], "train": [], "command": []}
    for number in range(ROUNDS):
        whole, run = bench.train(number)
        took["train"].append(whole)
        took["bare"].append(bench.bare())
        took["start"].append(bench.start(run))
        took["by_hand"].append(bench.by_hand())
        took["command"].append(bench.command())
    seconds = {name: round(min(each.whole for each in found), 2) for name, found in took.items()}
    added = {name: round(min(each.added for each in found), 2) for name, found in took.items() if name != "bare"}
    free = bench.efficiency(run, 3)
    bench.hold_links_to("1gbit")
    return {
        "seconds": seconds,
        "added": added,
        "load": round(os.getloadavg()[0], 1),
        **{f"{name}_over_bare": round(1 + more / seconds["bare"], 2) for name, more in added.items()},
        "all_reduce_over_1_gbit": bench.efficiency(run, 4),
        "all_reduce_over_memory": free,
    }


def main() -> None:
    if reason := reason_to_skip():
        sys.exit(f"error: {reason}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["GPTOPS_HOME"] = str(folder / "state")
        state = StatePaths(folder / "state")
        ensure_key(state.private_key)
        with Nodes(folder / "lan", 2, [public_line(state.private_key)]) as nodes:
            result = measured(Bench(folder, nodes, state))
    for key, value in result.items():
        print(f"{key:26}{value}", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
