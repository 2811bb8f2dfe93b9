"""Errands in a test: a project whose trainer obeys the test, on real hosts of this machine, without waiting.

The trainer is a small program with real checkpoints and metrics. It trains up to
the step that the test allows, crashes where the test wants it, and resumes as the
real one does. torchrun is a stand-in too: torch would take longer than the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.clock import SystemClock
from launcher.hosts.steps import Lines
from launcher.managed.errand import Errand, begin, read
from launcher.managed.here import Choices, Here, checked_jobs
from launcher.managed.loop import carry_out
from launcher.managed.news import News
from launcher.managed.outside import Outside
from launcher.paths import LocalRun, StatePaths
from launcher.project import find_project
from launcher.providers.local import LocalProvider
from launcher.running.tick import Talk
from tests.launcher.checkpoint_maker import silent
from tests.launcher.command_line import ROOT, Finished
from tests.launcher.desk import CONSOLE_SCRIPT
from tests.launcher.leftovers import files_of, processes_of
from trainer import manifest

TORCHRUN = """
import os, sys
words = [word for word in sys.argv[1:] if not word.startswith("--")]
os.environ["RANK"] = "0"
os.execvp(words[0], words)
"""

TRAINER = """
import json, os, pathlib, signal, sys, time
from trainer import manifest

gate, root = pathlib.Path(os.environ["GATE"]), pathlib.Path("..").resolve()
last = int(os.environ["STEPS"])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))

def word(name):
    try:
        return (gate / name).read_text().split()
    except FileNotFoundError:
        return []

def save(step):
    building = root / "checkpoints" / f"{manifest.step_name(step)}.tmp"
    building.mkdir(parents=True)
    (building / "model.safetensors").write_bytes(b"weights of step %d " % step * 50)
    manifest.publish(building)

found = manifest.checkpoints(root / "checkpoints")
step = manifest.verify(found[-1]).step if found else 0
metrics = root / "metrics.jsonl"
rows = metrics.read_text().splitlines() if metrics.exists() else []
metrics.write_text("".join(row + "\\n" for row in rows if json.loads(row)["step"] <= step))
print("begins after step", step)
if word("must_resume") and not found:
    sys.exit(4)
while step < last and not asked:
    limit = word("limit")
    if limit and step >= int(limit[0]):
        time.sleep(0.02)
        continue
    crash = word("crash")
    if crash and step + 1 == int(crash[0]):
        print(" ".join(crash[3:]))
        if crash[2] == "once":
            (gate / "crash").unlink()
        sys.exit(int(crash[1]))
    step += 1
    with metrics.open("a") as file:
        file.write(json.dumps({"step": step, "loss": 10 / step}) + "\\n")
    print(f"step {step}/{last}  loss {10 / step:.4f}  eta {last - step}s", flush=True)
    if step % 2 == 0 or step == last:
        save(step)
if step < last:
    if step % 2:
        save(step)
    sys.exit(75)
"""

JOB = """\
  {name}:
    stage: pretrain
    provider: {provider}
    resources: {{disk_gib: 1, {resources}}}
    sync: {{every_seconds: {every}}}
    env: {{GATE: {gate}, STEPS: "{steps}", PYTHONPATH: code}}
    train: {{train: {{max_steps: 20}}, schedule: {{warmup_steps: 2}}}}
"""


class HurryingClock(SystemClock):
    """Pauses take a moment, and count in full. Whoever wants to act between two looks is called at each pause."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.at_pause: list[Callable[[], None]] = []

    def now(self) -> float:
        return super().now() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        for act in self.at_pause:
            act()
        moment = min(seconds, 0.05)
        super().sleep(moment)
        self.ahead += seconds - moment


def write_stand_ins(root: Path) -> None:
    """The project's own trainer and torchrun, which it brings with its code."""
    for name, text in {
        "torch/distributed/run.py": TORCHRUN,
        "trainer/__main__.py": TRAINER,
        "trainer/__init__.py": "",
        "torch/__init__.py": "",
        "torch/distributed/__init__.py": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shutil.copy(manifest.__file__, root / "trainer" / "manifest.py")


@dataclass
class Workshop:
    """One project, one state directory, and what was said."""

    folder: Path
    where: str = "local"
    """The provider."""
    resources: str = "gpus: 0"
    steps: int = 8
    every: int = 1
    clock: HurryingClock = field(default_factory=HurryingClock)
    said: list[str] = field(default_factory=list)
    news: list[News] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = StatePaths(self.folder / "state")
        self.root = (self.folder / "project").resolve()
        self.gate = self.folder / "gate"
        self.gate.mkdir(parents=True)
        write_stand_ins(self.root)
        self.write_jobs()

    def write_jobs(self, *more: str, **extra: str) -> None:
        """jobs.yaml with the jobs `demo` and `second`; `demo` gets the lines of `more`."""
        text = "jobs:\n"
        for name in ("demo", "second"):
            text += JOB.format(
                name=name, provider=self.where, resources=self.resources, every=self.every, gate=self.gate,
                steps=self.steps,
            )  # fmt: skip
            text += "".join(f"    {line}\n" for line in more)
        (self.root / "jobs.yaml").write_text(text)

    # What the training may do

    def allow(self, step: int | None) -> None:
        """Up to this step; None: to its end."""
        self._put("limit", "" if step is None else str(step))

    def crash_at(self, step: int, exit_code: int, words: str, *, once: bool = False) -> None:
        """At this step; the first time, or whenever it gets there."""
        self._put("crash", f"{step} {exit_code} {'once' if once else 'always'} {words}")

    def _put(self, name: str, text: str) -> None:
        fresh = self.gate / f".{name}"
        fresh.write_text(text)
        fresh.replace(self.gate / name)

    # The errand

    def run(self, *jobs: str, **choices: bool) -> Errand:
        """Carry out an errand for these jobs, as the command line does, without examining machines."""
        with Ledger(self.state.ledger, self.clock) as ledger:
            errand = begin(ledger, self.root, jobs or ("demo",))
            return carry_out(errand, self.outside(ledger, errand), **choices)

    def go_on(self, errand_id: str) -> Errand:
        """Again, from what the ledger knows."""
        with Ledger(self.state.ledger, self.clock) as ledger:
            errand = read(ledger.errand(errand_id))
            return carry_out(errand, self.outside(ledger, errand))

    def gptops(self, *words: str, crash_at: str = "") -> Finished:
        """The command line, as a process of its own in the project's folder, to its end."""
        with self.started(*words, crash_at=crash_at) as process:
            stdout, stderr = process.communicate()
        return Finished(process.returncode, stdout, stderr)

    def started(self, *words: str, crash_at: str = "") -> subprocess.Popen[str]:
        """The same, going on."""
        environment = {"GPTOPS_HOME": str(self.state.root), "PYTHONPATH": str(ROOT), "GPTOPS_CRASH_AT": crash_at}
        return subprocess.Popen(
            [sys.executable, "-c", CONSOLE_SCRIPT, *words],
            env={**os.environ, **environment},
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def outside(self, ledger: Ledger, errand: Errand) -> Outside:
        """The real one; nobody waits, and news are kept."""
        project = find_project(self.root)
        talk = Talk(silent, lambda pulled: self.said.append(f"synced {pulled.name}"), self.said.append)
        steps = Lines(self.said.append, self.clock)
        here = Here(
            project, checked_jobs(project, errand.jobs), ledger, self.state, self.clock, steps, talk,
            Choices(skip_setup=True, skip_test=True),
        )  # fmt: skip
        outside = here.outside(errand, lambda view: self.said.append(view.line))
        return type(outside)(**{**vars(outside), "notify": self.news.append})

    def when(self, condition: Callable[[], bool], act: Callable[[], None]) -> None:
        """At the first pause at which it is so."""

        def look() -> None:
            if condition():
                self.clock.at_pause.remove(look)
                act()

        self.clock.at_pause.append(look)

    # What came of it

    def machines(self) -> list[InstanceRow]:
        """All there were, oldest first."""
        with Ledger(self.state.ledger, self.clock) as ledger:
            return ledger.instances(*InstanceState)

    def provider(self) -> LocalProvider:
        return LocalProvider(self.state.provider("local"))

    def take_away(self) -> None:
        """The newest machine is gone, with everything on it."""
        instance_id = self.machines()[-1].instance_id
        assert instance_id is not None
        self.provider().destroy(instance_id)

    def home(self, run_id: str) -> LocalRun:
        return LocalRun(self.root / "runs" / run_id)

    def at_home(self) -> list[int]:
        """Steps of all checkpoints at home, verified just now."""
        found = (self.root / "runs").glob("*/checkpoints/step_*") if (self.root / "runs").exists() else []
        return sorted({manifest.verify(path).step for path in found})

    def curve(self, run_id: str) -> list[int]:
        """The steps in the metrics of a run at home."""
        return [json.loads(line)["step"] for line in self.home(run_id).metrics.read_text().splitlines()]

    @property
    def talk(self) -> str:
        return "\n".join(self.said)

    def nothing_is_left(self) -> bool:
        """No machine, no process."""
        return files_of(self.state) == [] and processes_of(self.state) == []
