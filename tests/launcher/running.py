"""A real run on a real host, without the trainer: a small program under run.sh, prepared and started over SSH."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher.commands import runs as commands
from launcher.commands.runs import RunFile
from launcher.errors import Unreachable
from launcher.paths import REMOTE_UPLOADS, LocalRun, RemoteRun
from launcher.providers.local_processes import sshd_process
from launcher.providers.local_sshd import SBIN
from launcher.remote.pinning import shown_key
from launcher.remote.ssh import SshTransport
from launcher.running.render import template
from launcher.running.run_env import run_env
from launcher.running.status import RunStatus, read_status
from launcher.running.stop import stop_run
from tests.launcher.conftest import SshHost
from tests.launcher.waiting import wait_until

PRINTS_UNTIL_STOPPED = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
step = 0
while not asked:
    step += 1
    sys.stdout.buffer.write(b"step %d \\xff\\x00\\xc3\\xa9 no newline at times" % step + b"\\n" * (step % 2))
    sys.stdout.buffer.flush()
    time.sleep(0.005)
print("saved")
sys.exit(75)
"""


@dataclass(frozen=True)
class RemoteTraining:
    """One run on the test host."""

    host: SshHost
    transport: SshTransport
    run: RemoteRun
    local: LocalRun

    @property
    def folder(self) -> Path:
        """The run's folder on the host, as the host's owner sees it."""
        return self.host.home / self.run.root

    @property
    def remote_log(self) -> Path:
        return self.host.home / self.run.log

    def status(self) -> RunStatus:
        return read_status(self.transport, self.run)

    def ended(self) -> bool:
        return self.status().is_over

    def stop(self) -> RunStatus:
        return stop_run(self.transport, self.run, grace_seconds=20)

    def wait_for_log(self, size: int = 1) -> None:
        wait_until(lambda: self.remote_log.exists() and self.remote_log.stat().st_size >= size, what="a log")

    def end(self) -> None:
        """Whatever a test has left."""
        if (self.folder / "status" / "pid").exists() and self.status().alive:
            stop_run(self.transport, self.run, grace_seconds=0)


def start_training(host: SshHost, transport: SshTransport, local_root: Path, program: str) -> RemoteTraining:
    """Prepare and start `program` on the host, the way `gptops train` does."""
    training = RemoteTraining(host, transport, RemoteRun(f"test-{uuid.uuid4().hex[:8]}"), LocalRun(local_root))
    upload = host.home / REMOTE_UPLOADS / "tests"
    upload.mkdir(parents=True, exist_ok=True)
    (upload / "code.py").write_text("# uploaded\n")
    values = {
        "GPTOPS_RUN_ID": training.run.run_id,
        "GPTOPS_STARTER": "",
        "GPTOPS_COMMAND": shlex.join([sys.executable, "-c", program]),
        "GPTOPS_EXPECTED_PROCESSES": "1",
    }
    files = [RunFile("run.env", run_env(values), 0o600), RunFile("run.sh", template("run.sh").encode(), 0o755)]
    for command in (
        commands.prepare_run(training.run, REMOTE_UPLOADS / "tests", files),
        commands.start_run(training.run),
    ):
        result = transport.run(command)
        assert result.exit_code == 0, result.stderr
    return training


def cut_connections(host: SshHost) -> int:
    """Kill every sshd process that serves a connection, as a dead network would; not the one that listens."""
    listener = sshd_process(host.folder / "sshd_config")
    assert listener is not None
    sessions = listener.children()
    for session in sessions:
        session.kill()
    return len(sessions)


@contextmanager
def stopped_listening(host: SshHost) -> Iterator[None]:
    """No sshd while the block runs: every connection is cut, and none can be made. What runs on the host goes on."""
    listener = sshd_process(host.folder / "sshd_config")
    assert listener is not None
    ended = [listener, *listener.children()]
    for process in ended:
        process.kill()
    psutil.wait_procs(ended, timeout=5)
    try:
        yield
    finally:
        sshd = shutil.which("sshd", path=":".join(SBIN)) or "sshd"
        argv = [sshd, "-D", "-f", str(host.folder / "sshd_config"), "-E", str(host.folder / "sshd.log")]
        background = ["/bin/sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", *argv]
        subprocess.run(background, start_new_session=True, cwd="/", check=True)
        wait_until(lambda: answers(host), what="sshd answers again")


def answers(host: SshHost) -> bool:
    try:
        return bool(shown_key(host.address, timeout_seconds=5))
    except Unreachable:
        return False


def listeners(training: RemoteTraining) -> int:
    """Processes on the host that send the run's log to somebody."""
    words = [str(training.run.run_script), "log"]
    return sum(1 for process in psutil.process_iter(["cmdline"]) if (process.info["cmdline"] or [])[1:3] == words)
