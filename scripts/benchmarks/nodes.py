"""What gptops adds to starting a training on two nodes, in turn with bare torchrun on the same two; and how much of
the link an all-reduce uses.

The nodes are network namespaces of this machine with a real sshd each (tests/doubles/nodes.py). The training is one
all-reduce, so everything else is the start. `start` is what happens once a run is prepared: run.sh and torchrun on both
nodes. `train` is the whole of `gptops train` on open nodes: upload, set-up, comparing, meeting, preparing, start. Bare
torchrun gets its program, its port and its interface for nothing. Efficiency is the all-reduce's bus bandwidth (as
nccl-tests reckons it) over what one TCP connection between the two carries in the slower direction.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launcher.books.ledger import InstanceRow, Ledger
from launcher.clock import SystemClock
from launcher.commands import runs as commands
from launcher.nodes.launching import NodesMeans, launch_on_nodes
from launcher.nodes.meeting import free_port, meet, order_of, places_of
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

ROUNDS = 3
LINK_BYTES = 64 << 20
PROGRAM = """
import os, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
tensor = torch.ones(1 << 22)
dist.all_reduce(tensor)
done = time.time()
began = time.perf_counter()
for _ in range(5):
    dist.all_reduce(tensor)
seconds = (time.perf_counter() - began) / 5
if dist.get_rank() == 0:
    print("DONE", done, tensor.nbytes / seconds, flush=True)  # for two: 2 (n - 1) / n = 1
dist.destroy_process_group()
"""


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

    def opened(self) -> list[InstanceRow]:
        request = group_request(Flags(host="lan"), 2, find_project(self.root))
        assert request is not None
        return GroupOpener(self.state, self.clock, lambda _line: None).open(request)

    def train(self, rows: Sequence[InstanceRow], number: int) -> tuple[float, RemoteRun]:
        """Seconds from the command to the first all-reduce."""
        began = time.time()
        run_id = f"two-{number}"
        with Ledger(self.state.ledger, self.clock) as ledger, connected(rows, self.state, self.clock) as there:
            plan, _ = plan_of(
                LaunchRequest("two"), start=self.root, environment=os.environ, ledger=ledger, run_id=run_id,
                choose=lambda _name, _count: rows,
            )  # fmt: skip
            means = NodesMeans(Several(there), ledger, self.state, self.clock, lambda _line: None)
            launch_on_nodes(replace(plan, host_name="lan"), rows, means)
        return self.finished(RemoteRun(run_id), 1)[0] - began, RemoteRun(run_id)

    def start(self, rows: Sequence[InstanceRow], run: RemoteRun) -> float:
        """The same for a run that is prepared: the second attempt of one."""
        with connected(rows, self.state, self.clock) as there:
            together([row.name for row in rows], lambda node: there[node].run(commands.read_status(run)))  # log in
            began = time.time()
            together([row.name for row in rows], lambda node: there[node].run(commands.restart_run(run, 2)))
            return self.finished(run, 2)[0] - began

    def bare(self, rows: Sequence[InstanceRow]) -> float:
        """torchrun on both, over connections that are open."""
        with connected(rows, self.state, self.clock) as there:
            places = places_of(there, [row.inside for row in rows])
            order = order_of(places)
            there, places = [there[node] for node in order], [places[node] for node in order]
            port = free_port(there[0], places[0], None)
            lines = [
                f"GLOO_SOCKET_IFNAME={place.interface} OMP_NUM_THREADS=1 python -m torch.distributed.run --nnodes=2"
                f" --node-rank={node} --nproc-per-node=1 --local-addr={place.address} --rdzv-backend=c10d"
                f" --rdzv-endpoint={places[0].address}:{port} --rdzv-conf=is_host={int(node == 0)} program.py"
                for node, place in enumerate(places)
            ]
            began = time.time()
            answers = together(
                [row.name for row in rows],
                lambda node: there[node].run(Command(("sh", "-c", lines[node])), timeout_seconds=120),
            )
        return _told(answers[0].stdout)[0] - began

    def finished(self, run: RemoteRun, times: int) -> tuple[float, float]:
        """When the first all-reduce was done, and the bus bandwidth after it. Waits until all processes have gone."""
        log = self.nodes[0].home / run.log
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            told = log.read_text(errors="replace") if log.exists() else ""
            ended = all((node.home / run.status / "phase").read_text() == "ended\n" for node in self.nodes.all)
            if told.count("DONE") == times and ended:
                return _told(told)
            time.sleep(0.01)
        raise AssertionError(f"it did not end: {told}")

    def link(self, rows: Sequence[InstanceRow]) -> float:
        """Bytes a second that one TCP connection carries in the slower direction."""
        with connected(rows, self.state, self.clock) as there:
            places = places_of(there, [row.inside for row in rows])
            [found] = meet(there, places, free_port(there[0], places[0], None), size=LINK_BYTES)
        return min(found.there_bytes_per_second, found.back_bytes_per_second)


def _told(text: str) -> tuple[float, float]:
    last = [line for line in text.splitlines() if line.startswith("DONE")][-1].split()
    return float(last[1]), float(last[2])


def main() -> None:
    if reason := reason_to_skip():
        sys.exit(f"error: {reason}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["GPTOPS_HOME"] = str(folder / "state")
        state = StatePaths(folder / "state")
        ensure_key(state.private_key)
        with Nodes(folder / "lan", 2, [public_line(state.private_key)]) as nodes:
            bench = Bench(folder, nodes, state)
            rows = bench.opened()
            seconds: dict[str, list[float]] = {"train": [], "start": [], "bare": []}
            for number in range(ROUNDS):
                whole, run = bench.train(rows, number)
                seconds["train"].append(whole)
                seconds["start"].append(bench.start(rows, run))
                seconds["bare"].append(bench.bare(rows))
            bus, link = bench.finished(run, 2)[1], bench.link(rows)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "seconds": {name: round(value, 3) for name, value in median.items()},
        "start_over_bare": round(median["start"] / median["bare"], 3),
        "train_over_bare": round(median["train"] / median["bare"], 3),
        "all_reduce_mb_per_second": round(bus / 1e6, 1),
        "link_mb_per_second": round(link / 1e6, 1),
        "all_reduce_efficiency": round(bus / link, 3),
    }
    for key, value in result.items():
        print(f"{key:26}{value}", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
