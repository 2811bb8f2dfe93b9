"""The main job from end to end, as the commands a user would type.

Each step is a `gptops` process of its own, shown before it runs, so the demo
cannot do anything that the documentation does not tell. It opens a host on this
machine, checks it, trains the job `demo` on it, brings the checkpoints home
while the run goes on, and closes the host.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.curve import Point, curve
from launcher.errors import RunFailed
from launcher.paths import LocalRun
from trainer.manifest import checkpoints

HOST = "demo"
JOB = "demo"
PROMPT = "HAMLET:\n"

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """What is at home when the demo has ended."""

    run_id: str
    checkpoint: Path
    """The newest, verified."""
    log: Path
    losses: tuple[Point, ...]
    """(step, training loss) of every logged step."""
    sample: str
    """Text the newest checkpoint wrote."""


def run_demo(root: Path, say: Say, *, host_is_open: bool) -> DemoResult:
    """Run the whole job in the project at `root`. Raises RunFailed naming the command that failed."""
    demo = _Demo(root, say)
    if not host_is_open:
        demo.step("up", "--provider", "local", "--name", HOST)
    demo.step("test-remote", HOST)
    started = demo.answer("train", JOB, "--host", HOST, "--detach", "--json")
    run_id = str(started["run_id"])
    # Checkpoints come home in the background while the log is followed, as in two terminals.
    with demo.background("sync", run_id, "--watch", "--delete"):
        demo.step("logs", run_id, "--follow")
    demo.step("down", HOST)
    local = LocalRun(root / "runs" / run_id)
    newest = checkpoints(local.checkpoints)[-1]
    return DemoResult(run_id, newest, local.log, tuple(_losses(local.metrics)), demo.sample(newest))


def ending(result: DemoResult, home: Path) -> list[str]:
    """The lines a user reads at the end: where it is, how it learned, what it writes, what to type next."""
    checkpoint = result.checkpoint.relative_to(home) if result.checkpoint.is_relative_to(home) else result.checkpoint
    return [
        "",
        *curve(result.losses, title="training loss"),
        "",
        f"a sample from the trained model, continuing {PROMPT!r}:",
        "",
        *[f"    {line}" for line in result.sample.splitlines()],
        "",
        f"checkpoint  {checkpoint} (verified)",
        f"log         {result.log.relative_to(home) if result.log.is_relative_to(home) else result.log}",
        "",
        "next:",
        *_activation(home),
        f"    python -m trainer generate {shlex.quote(str(checkpoint))} --prompt 'MACBETH:'",
        "    gptops check                                   # jobs.yaml, where the next job is written",
        "    gptops up --host you@your-gpu-box              # the same on a GPU box you have",
    ]


def _activation(home: Path) -> list[str]:
    """How the commands below find this clone's own environment, where it is one."""
    environment = Path(sys.prefix)
    if not environment.is_relative_to(home):
        return []
    return [f"    source {shlex.quote(str(environment.relative_to(home) / 'bin' / 'activate'))}"]


@dataclass(frozen=True)
class _Demo:
    """Where the commands run, and who is told."""

    root: Path
    say: Say

    def step(self, *words: str) -> None:
        """One command in the foreground. All it has to say is talk here: the demo's own data is how it ended."""
        self._show(words)
        self._check(words, subprocess.run(_gptops(words), cwd=self.root, stdout=sys.stderr).returncode)

    def answer(self, *words: str) -> dict[str, object]:
        """One command whose JSON answer is needed."""
        self._show(words)
        done = subprocess.run(_gptops(words), cwd=self.root, stdout=subprocess.PIPE, text=True)
        self._check(words, done.returncode)
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict), words
        return answer

    @contextmanager
    def background(self, *words: str) -> Iterator[None]:
        """One command beside the block, awaited at its end; ended with it where the block fails."""
        self._show(words, "&")
        process = subprocess.Popen(_gptops(words), cwd=self.root, stdout=sys.stderr)
        try:
            yield
        except BaseException:
            process.terminate()
            process.wait()
            raise
        self._check(words, process.wait())

    def sample(self, checkpoint: Path) -> str:
        """What the model writes. The trainer is a program of its own: the launcher does not import it."""
        words = ["-m", "trainer", "generate", str(checkpoint), "--prompt", PROMPT, "--max-tokens", "120", "--seed", "1"]
        done = subprocess.run([sys.executable, *words], cwd=self.root, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise RunFailed("the trained model could not be sampled", hint=f"python {shlex.join(words)}")
        return done.stdout.strip("\n")

    def _show(self, words: tuple[str, ...], tail: str = "") -> None:
        self.say(f"\n$ gptops {shlex.join(words)} {tail}".rstrip(" "))

    def _check(self, words: tuple[str, ...], exit_code: int) -> None:
        if exit_code == 0:
            return
        raise RunFailed(
            f"the demo ended at `gptops {shlex.join(words)}`",
            why=f"it ended with exit code {exit_code}; its own words are above",
            hint=f"gptops down {HOST} --discard (and then the demo again)",
        )


def _gptops(words: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "launcher", *words]


def _losses(metrics: Path) -> Iterator[Point]:
    for line in metrics.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "loss" in row:
            yield float(row["step"]), float(row["loss"])
