"""Measure a host before money is spent on it: login, links, disk, GPUs, one checkpoint there and back.

Everything is done the way a run does it: the same SSH, the same rsync, the
same sync with the same verification. It judges nothing (preflight_checks.py)
and leaves nothing behind, on the host or here.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from launcher.books.ledger import Ledger, RunRow, RunState
from launcher.checkpoints.pull import Puller
from launcher.checkpoints.sync import Policy, Sync, sync_once
from launcher.clock import Clock
from launcher.commands import preflight as commands
from launcher.errors import GptopsError, HostUnfit
from launcher.hosts import preflight_checks as judge
from launcher.hosts.preflight_checks import Asked, Check, Facts, Verdict, unmeasured
from launcher.paths import LocalRun, RemoteRun
from launcher.remote.transport import Command, Transport

PROBE_BYTES = 16 << 20
"""Enough to see a link's speed, little enough for a slow one."""


@dataclass(frozen=True)
class Preflight:
    """One examination of one host, in a folder of its own there and a scratch folder here."""

    transport: Transport
    asked: Asked
    clock: Clock
    scratch: Path
    remote: RemoteRun
    say: Callable[[str], None]
    trains: bool = True
    """A login node does not: its GPUs and its torch do not matter."""

    def checks(self) -> list[Check]:
        """Every check, in the order of the table."""
        rows = list(self._login())
        try:
            rows += self._on_the_host()
        finally:
            self._run(commands.remove(self.remote.root))
        return rows

    def _login(self) -> Iterator[Check]:
        self.say("logging in")
        connect = self._seconds(commands.round_trip())
        round_trip = min(self._seconds(commands.round_trip()) for _ in range(3))
        yield judge.ssh_check(connect, round_trip)

    def _on_the_host(self) -> Iterator[Check]:
        self.say("looking at tools, disk and GPUs")
        facts = self._facts()
        yield judge.python_check(facts, self.asked)
        if "error" in facts:
            yield unmeasured("everything else", "there is no python3")
            return
        yield judge.rsync_check(facts["rsync"], self.asked)
        yield self._clock_check()
        yield from self._transfers(facts)
        yield judge.disk_check(facts["disk"], self.asked)
        yield judge.write_check(facts["write"])
        if self.trains:
            yield from self._gpus(facts["gpus"])
        yield self._round_trip(facts)

    def _facts(self) -> Facts:
        for command in commands.install(self.remote.root):
            done = self._run(command)
            if done is None:
                raise HostUnfit(
                    f"could not write into the home of `{self.asked.host}`",
                    why="no permission, or a full disk",
                    hint=f"gptops ssh {self.asked.host} -- df -h .",
                )
        return self._probe("facts")

    def _clock_check(self) -> Check:
        """The host's clock against ours, at the middle of the quickest of three questions."""
        measured = []
        for _ in range(3):
            asked_at = self.clock.now()
            text = self._run(commands.read_clock())
            answered_at = self.clock.now()
            if text is not None:
                measured.append((answered_at - asked_at, float(text) - (asked_at + answered_at) / 2))
        if not measured:
            return unmeasured("clock", "python3 did not answer")
        took, skew = min(measured)
        return judge.clock_check(skew, took / 2)

    def _transfers(self, facts: Facts) -> Iterator[Check]:
        """Both ways through rsync, as code goes up and checkpoints come down."""
        if not isinstance(facts["rsync"], str):
            yield from (unmeasured(name, "rsync is missing") for name in ("upload", "download"))
            return
        self.say(f"sending and fetching {PROBE_BYTES >> 20} MiB")
        up, down = self.scratch / "up", self.scratch / "down"
        up.mkdir()
        down.mkdir()
        (up / "random").write_bytes(os.urandom(PROBE_BYTES))  # nothing that compression could shorten
        yield self._speed("upload", lambda: self.transport.push(["random"], up, self.remote.root))
        yield self._speed("download", lambda: self.transport.pull(["random"], self.remote.root, down))

    def _speed(self, name: str, transfer: Callable[[], object]) -> Check:
        began = self.clock.monotonic()
        try:
            transfer()
        except GptopsError as error:
            return Check(name, Verdict.FAIL, error.what, error.hint)
        return judge.transfer_check(name, PROBE_BYTES / max(self.clock.monotonic() - began, 1e-6))

    def _gpus(self, gpus: Facts) -> Iterator[Check]:
        python = (self._run(commands.find_python()) or "python3").strip()
        self.say("asking torch")
        torch = self._probe("torch", python=python)
        yield judge.gpu_check(gpus, self.asked)
        yield judge.driver_check(gpus, torch, self.asked)
        yield judge.torch_check(torch, gpus, self.asked)
        reduce: Facts = {}
        if "error" not in torch:
            self.say("letting two processes add up a tensor")
            reduce = self._probe("reduce", python=python, timeout_seconds=180)
        yield judge.reduce_check(reduce, torch)

    def _round_trip(self, facts: Facts) -> Check:
        """A checkpoint made there, brought home by the real sync, verified, and deleted there."""
        name = "checkpoint"
        if not isinstance(facts["rsync"], str):
            return unmeasured(name, "rsync is missing")
        self.say("bringing a checkpoint home")
        made = self._probe("checkpoint", str(self.remote.root))
        if "error" in made:
            return Check(name, Verdict.FAIL, str(made["error"]), "the run cannot save checkpoints there")
        began = self.clock.monotonic()
        try:
            with self._sync() as sync:
                done = sync_once(sync, has_ended=True)
        except GptopsError as error:
            return Check(name, Verdict.FAIL, error.what, error.hint or error.why)
        if done.problems:
            return Check(name, Verdict.FAIL, done.problems[0].error.what, done.problems[0].error.why)
        if (len(done.pulled), len(done.pruned)) != (1, 1):
            return Check(
                name, Verdict.FAIL, f"{len(done.pulled)} came home, {len(done.pruned)} deleted there, of 1", ""
            )
        seconds = self.clock.monotonic() - began
        return Check(name, Verdict.PASS, f"made, pulled, verified and deleted there in {seconds:.1f} s")

    @contextmanager
    def _sync(self) -> Iterator[Sync]:
        """The real one, with books that are thrown away."""
        local = LocalRun(self.scratch / "run")
        run = RunRow(
            self.remote.run_id, "preflight", self.asked.host, "", "", str(local.root), self.clock.now(),
            RunState.ENDED, None, True, 2,
        )  # fmt: skip
        with Ledger(self.scratch / "ledger.sqlite3", self.clock) as ledger, (self.scratch / "lock").open("w") as lock:
            ledger.add_run(run)
            puller = Puller(
                self.transport,
                self.remote.checkpoints,
                local,
                self.clock,
                lambda *_: nullcontext(lambda _done: None),
                lock.fileno(),
            )
            yield Sync(run.run_id, puller, ledger, Policy(), on_pulled=lambda _pulled: None)

    def _probe(self, mode: str, *arguments: str, python: str = "python3", timeout_seconds: float = 120.0) -> Facts:
        """The last line that the probe printed; `{"error": …}` where there is none."""
        result = self.transport.run(
            commands.probe(self.remote.root, mode, *arguments, python=python), timeout_seconds=timeout_seconds
        )
        if result.exit_code == 127:
            return {"error": f"there is no {python}"}
        try:
            answer = json.loads(result.stdout.strip().splitlines()[-1])
        except (ValueError, IndexError):
            complaint = (result.stderr.strip().splitlines() or [f"exit code {result.exit_code}"])[-1]
            return {"error": complaint[:300]}
        return answer if isinstance(answer, dict) else {"error": f"answered {answer!r}"[:300]}

    def _run(self, command: Command) -> str | None:
        result = self.transport.run(command)
        return result.stdout if result.exit_code == 0 else None

    def _seconds(self, command: Command) -> float:
        began = self.clock.monotonic()
        self._run(command)
        return self.clock.monotonic() - began


def examine(
    transport: Transport,
    asked: Asked,
    clock: Clock,
    scratch: Path,
    say: Callable[[str], None],
    *,
    trains: bool = True,
) -> list[Check]:
    """Every check of one host. Raises Unreachable or HostRefused where not even a login succeeds."""
    remote = RemoteRun(f"preflight-{secrets.token_hex(4)}")
    return Preflight(transport, asked, clock, scratch, remote, say, trains).checks()
