"""`test-remote` of what stands behind a login node: a small job of its Slurm looks at the machines that would train.

It is submitted as a training is, to the same partition, with the same lines and the same way to meet. Nobody waits for
it longer than agreed: a queue that is full is no fault of the cluster.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from launcher.clock import Clock
from launcher.commands import look as commands
from launcher.commands import preflight as removing
from launcher.commands import runs as run_commands
from launcher.commands.runs import RunFile
from launcher.hosts.preflight_checks import MIB, Check, Verdict
from launcher.nodes.facts import MOST_SKEW_SECONDS, NodeFacts, differences
from launcher.nodes.preflight import REDUCE_BYTES, SLOW_LINK, in_common
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

Answer = Mapping[str, Any]

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


def judged(answers: Mapping[str, Answer], job: JobSpec, exit_code: int | None, last_words: str) -> Iterator[Check]:
    """The rows that the answers make. Pure."""
    nodes = {name.removesuffix(".node"): answer for name, answer in answers.items() if name.endswith(".node")}
    for name, answer in nodes.items():
        yield node_check(name, answer, answers.get(f"{name}.torch"), job.resources.gpus)
    if len(nodes) < job.resources.nodes:
        found = f"{len(nodes)} of {job.resources.nodes} nodes have answered: {last_words}"
        yield Check("nodes", Verdict.FAIL, found, "is the home on a disk that all nodes share, with python3 on each?")
    sound = {name: answer for name, answer in nodes.items() if "error" not in answer}
    yield from _alike(list(sound), [_facts(answer) for answer in sound.values()])
    for name, answer in sorted(sound.items(), key=lambda item: item[1].get("link", {}).get("place", 0)):
        if "to" in answer.get("link", {}):
            yield link_check(name, answer["link"])
    if any(_torch(answer) for answer in sound.values()):
        yield from _all_reduce(answers, job, exit_code, last_words)


def node_check(name: str, answer: Answer, torch: Answer | None, gpus: int) -> Check:
    """One machine in one row: the first thing that is wrong with it says what to do."""
    if "error" in answer:
        return Check(name, Verdict.FAIL, str(answer["error"]), "")
    facts = _facts(answer)
    wrong = [*_wrong_gpus(facts, torch, gpus), *_wrong_disk(answer["clock"])]
    there = f"{len(facts.gpus)} x {facts.gpus[0]}, driver {facts.drivers[0]}" if facts.gpus else "no GPU"
    seen = f" sees {torch['device_count']}" if torch is not None and facts.gpus else ""
    found = f"{there}, python {facts.python or 'none'}, torch {facts.torch or 'none'}{seen}"
    if "ahead" in answer["clock"]:
        found += f", the login node's disk, clock {facts.skew_seconds:+.0f} s"
    if not wrong:
        return Check(name, Verdict.PASS, found)
    return Check(name, max((each[0] for each in wrong), key=list(Verdict).index), found, wrong[0][1])


def link_check(name: str, link: Answer) -> Check:
    """The way from one node to the one before it."""
    title, way = f"link {link['to']} {name}", link["way"]
    if "error" in way:
        return Check(title, Verdict.FAIL, str(way["error"]), "ask the cluster's staff: nodes of one job cannot meet")
    slowest = min(way["bytes_per_second"].values())
    found = f"{slowest / MIB:,.0f} MiB/s, round trip {way['round_trip'] * 1000:.2f} ms, over {link['interface'] or '?'}"
    if slowest >= SLOW_LINK:
        return Check(title, Verdict.PASS, found)
    return Check(title, Verdict.WARN, found, "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME in `env` name a faster network")


def _wrong_gpus(facts: NodeFacts, torch: Answer | None, asked: int) -> Iterator[tuple[Verdict, str]]:
    if len(facts.gpus) < asked:
        yield Verdict.FAIL, f"{asked} were asked for: sinfo -N -o '%N %G' tells what the nodes have"
    if torch is not None and torch["device_count"] < asked:
        yield (
            Verdict.FAIL,
            f"torch {torch['version']} sees {torch['device_count']} of {asked}: driver and wheel do not fit",
        )
    if not facts.torch:
        yield (
            Verdict.WARN,
            "the environment is not made yet, and no all-reduce was tried: gptops train, or gptops up --job",
        )


def _wrong_disk(clock: Answer) -> Iterator[tuple[Verdict, str]]:
    if "error" in clock:
        yield Verdict.FAIL, str(clock["error"])
    elif abs(clock["ahead"]) > MOST_SKEW_SECONDS:
        yield Verdict.FAIL, "its clock, or the login node's, is wrong: ask the cluster's staff"


def _alike(names: Sequence[str], facts: Sequence[NodeFacts]) -> Iterator[Check]:
    if len(facts) < 2:
        return
    found = differences(names, facts)
    for difference in found:
        yield Check("alike", Verdict.FAIL, difference, "take nodes of one kind: extra: [--constraint=...]")
    if not found:
        yield Check("alike", Verdict.PASS, in_common(facts))


def _all_reduce(answers: Mapping[str, Answer], job: JobSpec, exit_code: int | None, last_words: str) -> Iterator[Check]:
    name, answer = "all-reduce, all", answers.get("all.reduce")
    if answer is not None and answer.get("right"):
        speed = f"{answer['bus'] / MIB:,.0f} MiB/s bus bandwidth"
        yield Check(name, Verdict.PASS, f"{answer['backend']}, {answer['world']} processes, {speed}")
    elif answer is not None:
        yield Check(name, Verdict.FAIL, "the sum is wrong", "ask the cluster's staff")
    elif exit_code != 0:
        yield Check(name, Verdict.FAIL, f"exit code {exit_code}: {last_words}", "the nodes cannot train together")


def _facts(answer: Answer) -> NodeFacts:
    versions, clock = answer.get("versions", {}), answer.get("clock", {})
    names, drivers = [row[0] for row in answer.get("gpus", ())], [row[-1] for row in answer.get("gpus", ())]
    ahead = float(clock.get("ahead", 0.0))
    return NodeFacts(tuple(names), tuple(drivers), versions.get("python", ""), versions.get("torch", ""), ahead)


def _torch(answer: Answer) -> str:
    return str(answer.get("versions", {}).get("torch", ""))


def _read(text: str) -> Answer:
    try:
        answer = json.loads(text)
    except ValueError:
        return {"error": f"said {text[:100]!r}"}
    return answer if isinstance(answer, dict) else {"error": f"said {text[:100]!r}"}
