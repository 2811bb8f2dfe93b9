"""The real deadman.sh on this machine, with a clock of the test's: nobody waits for a deadline."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from launcher.running.render import template
from tests.launcher.waiting import wait_until

GENEROUS_SECONDS = 90.0


@dataclass
class SwitchBox:
    """A machine's `gptops/` folder with a switch in it, and the machine's time and variables."""

    root: Path
    uptime: int = 1000
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "deadman.sh").write_text(template("deadman.sh"))
        (self.root / "no-terminals").mkdir()
        self.boot("boot-1")
        self.wall(1_700_000_000)
        self.at(self.uptime)
        self.environ({})

    @property
    def folder(self) -> Path:
        return self.root / "gptops" / "deadman"

    @property
    def log(self) -> str:
        path = self.folder / "deadman.log"
        return path.read_text() if path.exists() else ""

    def fact(self, name: str) -> str:
        path = self.folder / "state" / name
        return path.read_text().strip() if path.exists() else ""

    # The machine

    def boot(self, boot_id: str) -> None:
        self._write("ticks/sys/kernel/random/boot_id", boot_id)

    def wall(self, seconds: int) -> None:
        self._write("ticks/wall", str(seconds))

    def at(self, uptime: int) -> None:
        """Let it be that uptime."""
        self.uptime = uptime
        self._write("ticks/uptime", f"{uptime}.25 0.00")

    def environ(self, values: Mapping[str, str]) -> None:
        """The environment of the container's first process."""
        self._write("environ", "".join(f"{name}={value}\0" for name, value in values.items()))

    def _write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)

    # The switch

    def call(self, *words: str, stdin: str = "") -> dict[str, str]:
        """One verb; what it answers."""
        done = subprocess.run(
            ["sh", str(self.folder / "deadman.sh"), *words],
            input=stdin,
            capture_output=True,
            text=True,
            env=self._env(),
        )
        assert done.returncode == 0, done.stderr
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    def arm(self, **plan: object) -> dict[str, str]:
        values = {
            "kind": "none",
            "api": "",
            "deadline": 0,
            "final": 0,
            "idle": 0,
            "save": 20,
            "renewable": "no",
            **plan,
        }
        answer = self.call("arm", stdin="".join(f"{name}={value}\n" for name, value in values.items()))
        if values["idle"]:
            self._until_seen()
        return answer

    def visit(self) -> dict[str, str]:
        """Somebody comes, and the switch has noticed before time goes on."""
        answer = self.call("visit")
        self._until_seen()
        return answer

    def _until_seen(self) -> None:
        left = self.folder / "state" / "visited"
        wait_until(lambda: not left.exists(), seconds=GENEROUS_SECONDS, what="the switch sees a visit")

    def pass_time(self, seconds: int) -> None:
        """Let time pass, and wait until the switch has looked around in it."""
        self.at(self.uptime + seconds)
        now = str(self.uptime)
        seen = f"the switch sees the uptime {now}"
        wait_until(lambda: self.fact("clock").split()[2:3] == [now], seconds=GENEROUS_SECONDS, what=seen)

    def wait_for(self, phase: str) -> None:
        wait_until(lambda: self.fact("phase") == phase, seconds=GENEROUS_SECONDS, what=f"{phase}\n{self.log}")

    def watchers(self) -> list[psutil.Process]:
        words = [str(self.folder / "deadman.sh"), "watch"]
        found = psutil.process_iter(["cmdline"])
        return [each for each in found if (each.info["cmdline"] or [])[1:3] == words and _leads_a_session(each.pid)]

    def kill_watcher(self) -> None:
        for process in self.watchers():
            process.kill()
            psutil.wait_procs([process], timeout=GENEROUS_SECONDS)

    def end(self) -> None:
        for process in psutil.process_iter(["cmdline"]):
            if str(self.root) in " ".join(process.info["cmdline"] or []):
                try:
                    os.kill(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def _env(self) -> dict[str, str]:
        return {
            **os.environ,
            "GPTOPS_INSTANCE": self.root.as_posix(),  # other tests' rsyncs are not this machine's
            "GPTOPS_SWITCH_CLOCK": str(self.root / "ticks"),
            "GPTOPS_SWITCH_TERMINALS": str(self.root / "no-terminals"),
            "GPTOPS_SWITCH_ENVIRON": str(self.root / "environ"),
            "GPTOPS_SWITCH_ETC": str(self.root / "etc-environment"),
            "GPTOPS_SWITCH_HOOK": str(self.root / "onstart.sh"),
            "GPTOPS_SWITCH_PULSE": "0.05",
            **self.extra,
        }

    # Runs on it

    def add_run(self, name: str = "demo-1", *, alive: bool) -> Path:
        """A run's folder, whose run.sh tells of a state that a file holds, and ends when it is told to stop."""
        folder = self.root / "gptops" / name
        (folder / "status").mkdir(parents=True)
        (folder / "status" / "alive").write_text("yes\n" if alive else "no\n")
        (folder / "run.sh").write_text(_RUN)
        return folder

    def add_checkpoint(self, run: Path, step: int, *, at_home: bool) -> Path:
        folder = run / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "MANIFEST.json").write_text(f'{{"step": {step}}}')
        if at_home:
            self.bring_home(folder)
        return folder

    @staticmethod
    def bring_home(checkpoint: Path) -> None:
        """What sync tells the machine."""
        home = checkpoint.parents[1] / "status" / "home"
        home.mkdir(exist_ok=True)
        sha256 = hashlib.sha256((checkpoint / "MANIFEST.json").read_bytes()).hexdigest()
        (home / f".{checkpoint.name}").write_text(sha256 + "\n")
        (home / f".{checkpoint.name}").replace(home / checkpoint.name)


def _leads_a_session(pid: int) -> bool:
    """A subshell of the switch has the same command line and does not."""
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


_RUN = """\
status=$(dirname "$0")/status
case $1 in
status) echo "alive=$(cat "$status/alive")" ;;
stop)
    echo "$2" >>"$status/stops"
    [ -f "$status/stubborn" ] || { echo no >"$status/alive"; echo ended >"$status/phase"; }
    ;;
esac
"""
