"""The outside world in memory: time, machines that train, a provider's books, and what has gone wrong by now.

Nothing here knows gptops' insides: it is what stands at the other end of the
Provider and Transport contracts, and it keeps its own account of dollars and of
every checkpoint there ever was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from launcher.remote.host import Address
from tests.launcher.simulated.faults import Fault, Schedule
from trainer.manifest import FileEntry, Manifest, step_name

BOOT_SECONDS = 90.0
STEP_SECONDS = 120.0
SAVE_EVERY = 2
PRICE, DISK_PRICE = 2.0, 0.1
START = 1_800_000_000.0


class Killed(BaseException):
    """gptops died. No handler of its own may do anything any more: see World.alive."""


@dataclass
class Training:
    """One run on one machine."""

    run_id: str
    max_steps: int
    phase: str = "preparing"
    attempt: int = 0
    exit_code: int | None = None
    step: int = 0
    since: float = 0.0
    """When the step at work began."""
    stop_requested: bool = False
    log: str = ""


@dataclass
class Machine:
    """One rented machine, its disk and what runs on it."""

    instance_id: str
    label: str
    price: float
    created_at: float
    machine_id: str
    files: dict[str, bytes] = field(default_factory=dict)
    runs: dict[str, Training] = field(default_factory=dict)
    status: str = "running"
    port: int = 22
    listed: int = -1
    """After its end: how often it is still listed. -1: not ended."""
    is_dead: bool = False
    """Its sshd never answers."""

    def address(self) -> Address:
        return Address(f"10.0.0.{int(self.instance_id[1:]) % 250 + 1}", self.port, "root")

    def is_whole(self, folder: str, manifest: str) -> bool:
        """Whether every file is what the manifest says."""
        try:
            files = json.loads(manifest)["files"].items()
        except ValueError:
            return False
        return all(_sha(self.files.get(f"{folder}/{name}", b"")) == entry["sha256"] for name, entry in files)


class World:
    """Time passes only here. Every look at a machine brings it up to now."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.seconds = START
        self.machines: dict[str, Machine] = {}
        self.dollars = 0.0
        self.billed_until = START
        self.pending = list(schedule.faults)
        self.until: dict[str, float] = {}
        """Faults that last, and when each ends."""
        self.once: list[str] = []
        """Faults that strike at the next occasion."""
        self.calls = 0
        self.alive = True
        self.violations: list[str] = []
        self.is_safe: Callable[[str, str], bool] = lambda _run_id, _manifest: False
        """Whether home has this very checkpoint whole; set by whoever knows home."""
        self.always_crashes_at: int | None = None

    # Time

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.call()
        self.pass_time(seconds)
        if "laptop-sleeps" in self.until:
            self.pass_time(max(0.0, self.until.pop("laptop-sleeps") - self.seconds))

    def pass_time(self, seconds: float) -> None:
        """Bill, train, and let the faults of this stretch begin."""
        end = self.seconds + seconds
        while self.pending and START + self.pending[0].at <= end:
            fault = self.pending.pop(0)
            self._until(max(self.seconds, START + fault.at))
            self._strike(fault)
        self._until(end)

    def _until(self, moment: float) -> None:
        for machine in self.living():
            hours = (moment - max(self.billed_until, machine.created_at)) / 3600
            self.dollars += max(0.0, hours) * (machine.price if machine.status == "running" else DISK_PRICE)
        self.billed_until = self.seconds = moment
        for machine in self.living():
            self._train(machine)

    # Faults

    def _strike(self, fault: Fault) -> None:
        if fault.kind == "gptops-killed":
            self.once.append("kill")
        elif fault.lasts:
            self.until[fault.kind] = START + fault.at + fault.lasts
        elif (change := getattr(self, "_" + fault.kind.replace("-", "_"), None)) is not None:
            for machine in self.living()[-1:]:
                change(machine)
        elif fault.kind == "crash-always":
            self.always_crashes_at = 1 + max(
                [run.step for each in self.living() for run in each.runs.values()], default=2
            )
        else:
            self.once.append(fault.kind)

    def _preempted(self, machine: Machine) -> None:
        machine.status = "preempted"
        self._lose_processes(machine)

    def _stopped(self, machine: Machine) -> None:
        machine.status = "stopped"
        self._lose_processes(machine)

    def _vanished(self, machine: Machine) -> None:
        machine.listed = 0

    def _moved(self, machine: Machine) -> None:
        machine.port += 1

    def _rebooted(self, machine: Machine) -> None:
        self._lose_processes(machine)

    def _killed_by_oom_killer(self, machine: Machine) -> None:
        for run in machine.runs.values():
            if run.phase == "running":
                self._end(run, 137, "run.sh: process 0 was killed")

    def _run_removed(self, machine: Machine) -> None:
        for run_id in list(machine.runs):
            if machine.runs[run_id].phase != "preparing" and not self._has_unsaved(machine):
                del machine.runs[run_id]
                machine.files = {p: b for p, b in machine.files.items() if not p.startswith(f"gptops/{run_id}/")}

    def _corrupt_checkpoint(self, machine: Machine) -> None:
        weights = sorted(path for path in machine.files if path.endswith("model.safetensors"))
        if weights:
            machine.files[weights[-1]] = b"bit rot"

    def _lose_processes(self, machine: Machine) -> None:
        for run in machine.runs.values():
            if run.phase == "running":
                run.phase = "lost"

    def on(self, kind: str) -> bool:
        """Whether a lasting fault is on now."""
        return self.until.get(kind, 0.0) > self.seconds

    def strikes(self, kind: str) -> bool:
        """Whether a fault that strikes once does so now."""
        if kind in self.once:
            self.once.remove(kind)
            return True
        return False

    # gptops as a process

    def call(self) -> None:
        """Before everything that gptops does to the outside; it may die here, or be dead already."""
        self.calls += 1
        if not self.alive:
            raise Killed
        if self.calls in self.schedule.kills or self.strikes("kill"):
            self.alive = False
            raise Killed

    def after(self) -> None:
        """After the effect, before its answer."""
        if self.calls + 1000 in self.schedule.kills:
            self.alive = False
            raise Killed

    # Machines

    def living(self) -> list[Machine]:
        """What exists and bills."""
        return [machine for machine in self.machines.values() if machine.listed == -1]

    def is_up(self, machine: Machine) -> bool:
        """Whether its sshd answers."""
        booted = self.seconds >= machine.created_at + BOOT_SECONDS
        return machine.listed == -1 and machine.status == "running" and booted and not machine.is_dead

    def destroy(self, machine: Machine) -> None:
        """End it, noting what is lost by that although it could have been brought home."""
        network = max(self.until.get(kind, 0.0) for kind in ("ssh-down", "all-down", "ssh-refused"))
        answered = self.is_up(machine) and self.seconds > network + 3600
        if machine.listed == -1 and answered and self._has_unsaved(machine):
            self.violations.append(f"{machine.label} was ended with a checkpoint that is nowhere else")
        machine.listed = 0

    def _has_unsaved(self, machine: Machine) -> bool:
        return any(not self.is_safe(run_id, text) for run_id, text in self.whole(machine))

    def whole(self, machine: Machine) -> list[tuple[str, str]]:
        """Run and manifest of each checkpoint that is whole there, byte for byte."""
        found = []
        for path, content in machine.files.items():
            is_manifest = path.endswith("/MANIFEST.json") and "/.incoming/" not in path and "preparing" not in path
            if is_manifest and machine.is_whole(path.rsplit("/", 1)[0], content.decode()):
                found.append((path.split("/")[1], content.decode()))
        return found

    # Training

    def _train(self, machine: Machine) -> None:
        for run in machine.runs.values():
            while run.phase == "running" and self.seconds >= run.since + STEP_SECONDS and self.is_up(machine):
                run.since += STEP_SECONDS
                self._step(machine, run)

    def _step(self, machine: Machine, run: Training) -> None:
        at = run.step + 1
        if self.on("host-full"):
            return self._end(run, 4, "error: cannot write: No space left on device")
        if self.strikes("out-of-memory"):
            return self._end(run, 1, "torch.OutOfMemoryError: CUDA out of memory")
        if self.strikes("bad-config"):
            return self._end(run, 2, "error: no such key")
        if at == self.always_crashes_at or self.strikes("crash"):
            return self._end(run, 1, f"ZeroDivisionError at step {at}")
        run.step = at
        root = f"gptops/{run.run_id}"
        row = json.dumps({"step": at, "loss": 10 / at}) + "\n"
        machine.files[f"{root}/metrics.jsonl"] = machine.files.get(f"{root}/metrics.jsonl", b"") + row.encode()
        run.log += f"step {at}/{run.max_steps}  loss {10 / at:.4f}\n"
        if at % SAVE_EVERY == 0 or at == run.max_steps:
            self.save(machine, run)
        if at == run.max_steps:
            self._end(run, 0, "done")
        return None

    def save(self, machine: Machine, run: Training) -> None:
        """As the trainer does: whole, or not at all."""
        folder = f"gptops/{run.run_id}/checkpoints/{step_name(run.step)}"
        weights = f"weights of step {run.step}".encode() * 20
        manifest = Manifest(run.step, {"model.safetensors": FileEntry(len(weights), _sha(weights))})
        machine.files[f"{folder}/model.safetensors"] = weights
        machine.files[f"{folder}/MANIFEST.json"] = manifest.to_json().encode()

    def _end(self, run: Training, code: int, words: str) -> None:
        run.phase, run.exit_code = "ended", code
        run.log += words + "\n"

    def begin(self, machine: Machine, run: Training, attempt: int) -> None:
        """`run.sh start ATTEMPT`: resumes from the newest whole checkpoint in its folder."""
        if attempt <= run.attempt or run.phase == "running":
            return
        root = f"gptops/{run.run_id}"
        steps = [json.loads(text)["step"] for owner, text in self.whole(machine) if owner == run.run_id]
        run.step, run.attempt, run.since = max(steps, default=0), attempt, self.seconds
        run.phase, run.exit_code = "running", None
        rows = machine.files.get(f"{root}/metrics.jsonl", b"").decode().splitlines()
        kept = [row for row in rows if json.loads(row)["step"] <= run.step]
        machine.files[f"{root}/metrics.jsonl"] = "".join(row + "\n" for row in kept).encode()
        run.log += f"begins after step {run.step}\n"
        if run.step >= run.max_steps:
            self._end(run, 0, "done already")

    def stop(self, machine: Machine, run: Training) -> None:
        """`run.sh stop`: saves and ends."""
        if run.phase == "running":
            run.stop_requested = True
            if run.step:
                self.save(machine, run)
            self._end(run, 75, "saved")


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
