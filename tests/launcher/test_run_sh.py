"""templates/run.sh by itself: a real shell, real processes, no SSH.

The training is a small program that does what the trainer promises: prints,
saves on SIGTERM, answers with an exit code.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launcher.running.render import template
from tests.launcher.waiting import wait_until

SAVES_ON_SIGTERM = """
import os, signal, sys, time
from pathlib import Path
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
print("ready", os.environ.get("RANK", "0"), flush=True)
while not asked:
    time.sleep(0.02)
time.sleep(0.2)
Path(f"../saved.{os.environ.get('RANK', '0')}").write_text(str(len(asked)))
print("saved", flush=True)
sys.exit(75)
"""

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal, time; signal.signal(15, signal.SIG_IGN); print('grandchild', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(600)
"""

SHELLS = [name for name in ("dash", "bash", "busybox") if shutil.which(name)]


class Run:
    """A run's folder as the launcher would have made it, and run.sh in it."""

    def __init__(self, root: Path, shell: str, run_id: str) -> None:
        self.root = root
        self.run_id = run_id
        self.env = {"PATH": os.environ["PATH"], "HOME": str(root)}
        (root / "code").mkdir(parents=True)
        (root / "run.sh").write_text(template("run.sh"))
        bin_folder = root / "bin"
        bin_folder.mkdir()
        (bin_folder / "sh").symlink_to(shutil.which(shell) or shell)
        self.env["PATH"] = f"{bin_folder}:{self.env['PATH']}"
        self.is_given([sys.executable, "-c", "print('hello')"])

    def is_given(self, command: list[str], *, starter: list[str] | None = None, processes: int = 1, **env: str) -> None:
        """Write run.env."""
        values = {
            "GPTOPS_RUN_ID": self.run_id,
            "GPTOPS_STARTER": shlex.join(starter or []),
            "GPTOPS_COMMAND": shlex.join(command),
            "GPTOPS_EXPECTED_PROCESSES": str(processes),
            "OMP_NUM_THREADS": "1",
            **env,
        }
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in values.items()]
        (self.root / "run.env").write_text("".join(lines))

    def sh(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        argv = ["sh", str(self.root / "run.sh"), *words]
        return subprocess.run(
            argv, env=self.env, capture_output=True, check=check, timeout=60, stdin=subprocess.DEVNULL
        )

    def status(self, *words: str) -> dict[str, str]:
        out = self.sh(*(words or ("status",))).stdout.decode()
        return dict(line.split("=", 1) for line in out.splitlines())

    @property
    def log(self) -> str:
        path = self.root / "logs" / "train.log"
        return path.read_text() if path.exists() else ""

    def ended(self) -> bool:
        return self.status()["phase"] == "ended"

    def processes(self) -> list[psutil.Process]:
        """Every living process that carries the run's mark, found without run.sh."""
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except (psutil.Error, OSError):
                continue
            mark = environment.get("GPTOPS_MEMBER_OF", "")
            if mark.startswith(f"/{self.run_id}/") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def end_everything(self) -> None:
        if (self.root / "status" / "pid").exists():
            supervisor = int((self.root / "status" / "pid").read_text().split()[0])
            if self.status()["supervisor"] == "yes":
                os.kill(supervisor, signal.SIGKILL)
        for process in self.processes():
            process.kill()


in_every_shell = pytest.mark.parametrize("run", SHELLS, indirect=True)
"""For what may differ between shells: jobs, signals, words. Else the system's own `sh` will do."""


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    shell = getattr(request, "param", "sh")
    made = Run(tmp_path / "a folder's $(touch evil) \n name", shell, f"t-{os.getpid()}-{tmp_path.name[-40:]}")
    yield made
    made.end_everything()


@in_every_shell
def test_start_returns_at_once_and_the_run_goes_on_in_its_own_session(run: Run) -> None:
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM])
    started = run.status("start", "1")
    assert (started["alive"], started["attempt"], started["exit_code"]) == ("yes", "1", "")
    assert os.getsid(int(started["pid"])) == int(started["pid"])
    wait_until(lambda: "ready" in run.log)
    status = run.status()
    assert (status["phase"], status["supervisor"], status["log_bytes"]) == ("running", "yes", str(len("ready 0\n")))
    assert int(status["heartbeat_age"]) <= 5
    assert os.getsid(int(status["pgid"])) == int(status["pgid"])


@in_every_shell
def test_a_run_ends_with_the_exit_code_of_the_training(run: Run) -> None:
    run.is_given([sys.executable, "-c", "import sys; print('bad corpus'); sys.exit(3)"])
    run.sh("start")
    wait_until(run.ended)
    status = run.status()
    assert (status["exit_code"], status["alive"], status["processes"]) == ("3", "no", "0")
    assert run.log == "bad corpus\n"
    assert not list((run.root / "status").glob("*.tmp*"))


def test_an_attempt_is_started_once_however_often_it_is_asked_for(run: Run) -> None:
    run.sh("start", "1")
    wait_until(run.ended)
    assert run.status("start", "1")["phase"] == "ended"
    assert run.log == "hello\n"
    run.sh("start", "2")
    wait_until(run.ended)
    assert run.log == "hello\nrun.sh: attempt 2\nhello\n"
    assert run.status()["attempt"] == "2"


@in_every_shell
def test_two_starts_at_the_same_time_make_one_supervisor(run: Run) -> None:
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM])
    argv = ["sh", str(run.root / "run.sh"), "start"]
    starts = [subprocess.Popen(argv, env=run.env, stdout=subprocess.PIPE) for _ in range(4)]
    answers = [start.communicate(timeout=30)[0].decode() for start in starts]
    assert [start.returncode for start in starts] == [0] * 4
    assert len({line for answer in answers for line in answer.splitlines() if line.startswith("pid=")}) == 1
    wait_until(lambda: "ready" in run.log)
    assert run.log == "ready 0\n"


def test_a_running_run_is_not_started_again(run: Run) -> None:
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM])
    run.sh("start")
    again = run.sh("start")
    assert b"is running; nothing was started" in again.stderr
    assert b"attempt=1\n" in again.stdout


@in_every_shell
def test_stop_lets_the_training_save_and_proves_that_all_is_gone(run: Run) -> None:
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM])
    run.sh("start")
    wait_until(lambda: "ready" in run.log)
    stopped = run.status("stop", "20")
    assert (stopped["phase"], stopped["exit_code"], stopped["alive"]) == ("ended", "75", "no")
    assert (run.root / "saved.0").read_text() == "1", "one SIGTERM, not two"
    assert run.processes() == []
    assert run.status("stop")["exit_code"] == "75", "stopping what has stopped changes nothing"


def test_stop_before_the_training_began_leaves_nothing_behind(run: Run) -> None:
    slow_starter = [sys.executable, "-c", "import os, sys, time; time.sleep(1); os.execvp(sys.argv[1], sys.argv[1:])"]
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM], starter=slow_starter)
    run.sh("start")
    stopped = run.status("stop", "20")
    assert (stopped["phase"], stopped["alive"]) == ("ended", "no")
    assert stopped["exit_code"] in ("75", "143"), "it may or may not have been ready for the signal"
    assert run.processes() == []


def test_stop_kills_what_will_not_end_even_in_other_sessions(run: Run) -> None:
    run.is_given([sys.executable, "-c", STUBBORN])
    run.sh("start")
    wait_until(lambda: "grandchild" in run.log)
    stopped = run.status("stop", "1")
    assert (stopped["phase"], stopped["exit_code"], stopped["alive"]) == ("ended", "137", "no")
    assert run.processes() == []


def test_stop_of_a_run_that_never_started_is_no_error(run: Run) -> None:
    assert run.status("stop")["phase"] == ""


@in_every_shell
def test_a_run_of_the_same_name_in_another_folder_is_another_run(run: Run, tmp_path: Path) -> None:
    """Two hosts on one machine may each have one: a run that was moved keeps its name."""
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM])
    run.sh("start")
    wait_until(lambda: "ready" in run.log)
    other = Run(tmp_path / "other", "sh", run.run_id)
    other.sh("start")
    wait_until(other.ended)
    assert (other.status()["alive"], other.status()["processes"]) == ("no", "0")
    assert other.status("stop", "0")["alive"] == "no"
    assert run.status()["alive"] == "yes"


def test_a_signal_to_the_supervisor_saves_too(run: Run) -> None:
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM])
    pid = int(run.status("start")["pid"])
    wait_until(lambda: "ready" in run.log)
    os.killpg(pid, signal.SIGTERM)
    wait_until(run.ended)
    assert run.status()["exit_code"] == "75"
    assert (run.root / "saved.0").read_text() == "1"


def test_a_hangup_ends_nothing(run: Run) -> None:
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM])
    status = run.status("start")
    wait_until(lambda: "ready" in run.log)
    os.killpg(int(status["pid"]), signal.SIGHUP)
    os.killpg(int(run.status()["pgid"]), signal.SIGHUP)
    assert run.status()["alive"] == "yes"
    assert run.status("stop", "20")["exit_code"] == "75"


@in_every_shell
def test_a_run_outlives_its_supervisor_and_its_end_is_still_known(run: Run) -> None:
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM])
    pid = int(run.status("start")["pid"])
    wait_until(lambda: "ready" in run.log)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    orphan = run.status()
    assert (orphan["alive"], orphan["supervisor"], orphan["phase"]) == ("yes", "no", "running")
    assert b"nothing was started" in run.sh("start").stderr
    assert run.status("stop", "20")["exit_code"] == "75"


def test_workers_whose_starter_was_killed_save_and_end(run: Run) -> None:
    keeper = "import subprocess, sys; subprocess.run(sys.argv[1:], start_new_session=True)"
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM], starter=[sys.executable, "-c", keeper])
    run.sh("start")
    wait_until(lambda: "ready" in run.log)
    os.kill(int(run.status()["pgid"]), signal.SIGKILL)
    wait_until(run.ended)
    assert run.status()["exit_code"] == "75"
    assert run.processes() == []


def test_a_killed_training_is_explained_in_the_log(run: Run) -> None:
    run.is_given([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    run.sh("start")
    wait_until(run.ended)
    assert run.status()["exit_code"] == "137"
    assert "process 0 was killed (SIGKILL); the usual reason is that the machine ran out of memory" in run.log


def test_a_starter_that_starts_nothing_is_quoted_in_the_log(run: Run) -> None:
    run.is_given(["true"], starter=[sys.executable, "-c", "import sys; sys.exit('no torch here')"])
    run.sh("start")
    wait_until(run.ended)
    assert run.status()["exit_code"] == "1"
    assert (
        run.log == "run.sh: the starter ended with code 1 before any training process began; it said:\nno torch here\n"
    )


def test_a_missing_program_is_said(run: Run) -> None:
    run.is_given(["no-such-trainer"])
    run.sh("start")
    wait_until(run.ended)
    assert run.status()["exit_code"] == "127"
    assert "no-such-trainer" in run.log


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("cannot mount a small disk here: needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_end_of_a_run_that_filled_the_disk_is_still_told(small_disk: Path) -> None:
    run = Run(small_disk, "sh", f"t-{os.getpid()}-full")
    fill = "import sys\ntry: open('../fill', 'wb').write(bytes(9_000_000))\nexcept OSError: sys.exit(4)"
    starter = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode and 1)"
    run.is_given([sys.executable, "-c", fill], starter=[sys.executable, "-c", starter])
    run.sh("start")
    wait_until(run.ended)
    assert run.status()["exit_code"] == "4"
    assert (small_disk / "fill").stat().st_size > 1_000_000


HOSTILE = 'a\'; echo foo; "$(touch evil)" `x` \\ \n two  spaces\t$HOME é'


@in_every_shell
def test_values_reach_the_training_as_they_are(run: Run) -> None:
    # Lower-case names are variables of run.sh itself.
    values = {"HOSTILE": HOSTILE, "root": "R", "status": "S", "log": HOSTILE, "child": "C", "code": "7", "IFS2": " "}
    show = "import os, sys; print([os.environ[n] for n in sys.argv[2:]], [sys.argv[1]], os.getcwd())"
    run.is_given([sys.executable, "-c", show, HOSTILE, *values], **values)
    run.sh("start")
    wait_until(run.ended)
    assert run.log == f"{list(values.values())} {[HOSTILE]} {run.root / 'code'}\n"
    assert list(run.root.rglob("evil")) == []
    assert "HOSTILE" not in run.sh("status").stdout.decode()


def test_the_environment_that_setup_made_is_used(run: Run) -> None:
    venv = run.root.parent / "ven v"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    show = "import os; print(os.environ['VIRTUAL_ENV'], os.environ['PYTHONUNBUFFERED'], os.environ['OMP_NUM_THREADS'])"
    run.is_given(["python", "-c", show], processes=10_000, OMP_NUM_THREADS="", GPTOPS_VENV="../ven v")
    run.sh("start")
    wait_until(run.ended)
    assert run.log == f"{run.root}/../ven v 1 1\n"


def test_the_log_is_sent_from_any_offset(run: Run) -> None:
    run.is_given([sys.executable, "-c", "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"])
    run.sh("start")
    wait_until(run.ended)
    whole = bytes(range(256)) * 1000
    assert run.sh("log", "0").stdout == whole
    assert run.sh("log", "255999").stdout == b"\xff"
    assert run.sh("log", "256000").stdout == b""
    assert run.sh("log", "256001", check=False).returncode == 66


def follow(run: Run) -> subprocess.Popen[bytes]:
    argv = ["sh", str(run.root / "run.sh"), "log", "0", "-f"]
    return subprocess.Popen(argv, env=run.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_following_ends_with_the_run_and_loses_no_tail(run: Run) -> None:
    slow = "import time\nfor i in range(20): print('line', i, flush=True); time.sleep(0.03)"
    run.is_given([sys.executable, "-c", slow])
    run.sh("start")
    with follow(run) as follower:
        assert follower.stdout is not None
        assert follower.stdout.read().decode() == "".join(f"line {i}\n" for i in range(20))
    assert follower.returncode == 0


@in_every_shell
def test_following_ends_when_nobody_listens(run: Run) -> None:
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM])
    run.sh("start")
    with follow(run) as follower:
        assert follower.stdout is not None
        assert follower.stdin is not None
        assert follower.stdout.readline() == b"ready 0\n"
        follower.stdin.close()
        follower.wait(60)
    assert run.status()["alive"] == "yes"


def test_the_size_of_the_log_at_a_time_is_known(run: Run) -> None:
    run.sh("start")
    wait_until(run.ended)
    now = int(time.time())
    (run.root / "logs" / "index").write_text(f"{now - 300} 0\n{now - 200} 10\n{now - 100} 20\n")
    assert run.sh("since", "150").stdout == b"10\n"
    assert run.sh("since", "5").stdout == b"20\n"
    assert run.sh("since", "9999").stdout == b"0\n"


def test_progress_is_told_from_whole_lines_and_whole_checkpoints(run: Run) -> None:
    (run.root / "metrics.jsonl").write_text('{"step": 10, "loss": 2.0}\n{"step": 20, "loss": 1.0}\n{"step": 3')
    for name in ("step_00000010", "step_00000020", "step_00000030.tmp"):
        (run.root / "checkpoints" / name).mkdir(parents=True)
    (run.root / "checkpoints" / "step_00000010" / "MANIFEST.json").write_text("{}")
    status = run.status()
    assert (status["step"], status["checkpoint"]) == ("20", "00000010")


def test_nothing_is_written_where_there_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text(template("run.sh"))
    answer = subprocess.run(["sh", str(tmp_path / "run.sh"), "status"], capture_output=True, check=False)
    assert (answer.returncode, answer.stderr) == (69, b"run.sh: there is no run.env beside this script\n")
    assert [path.name for path in tmp_path.iterdir()] == ["run.sh"]


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs `ps` from procps")
def test_a_machine_without_proc_and_setsid_does_the_same(run: Run) -> None:
    """What macOS lacks: the processes are found by `ps`, the session is made by python3."""
    (run.root / "bin" / "python3").symlink_to(sys.executable)
    for name in ("ps", "cat", "date", "dirname", "basename", "mkdir", "mv", "rm", "dd", "grep", "sed", "sort",
                 "tail", "head", "sleep", "tr", "wc", "ls", "ln", "getconf", "awk"):  # fmt: skip
        (run.root / "bin" / name).symlink_to(shutil.which(name) or name)
    run.env |= {"PATH": str(run.root / "bin"), "GPTOPS_PROC": "/nowhere"}
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM])
    started = run.status("start")
    assert os.getsid(int(started["pid"])) == int(started["pid"])
    wait_until(lambda: "ready" in run.log)
    assert (run.status()["alive"], run.status()["processes"]) == ("yes", "2")
    assert run.status("stop", "20")["exit_code"] == "75"
    assert run.processes() == []


def torchrun(processes: int) -> list[str]:
    flags = ["--standalone", f"--nproc_per_node={processes}", "--no-python"]
    return [sys.executable, "-m", "torch.distributed.run", *flags]


def test_every_process_of_torchrun_saves_once_when_asked(run: Run) -> None:
    run.is_given([sys.executable, "-c", SAVES_ON_SIGTERM], starter=torchrun(2), processes=2)
    run.sh("start")
    wait_until(lambda: run.log.count("ready") == 2, seconds=60)
    stopped = run.status("stop", "30")
    assert (stopped["exit_code"], stopped["alive"]) == ("75", "no")
    assert [(run.root / f"saved.{rank}").read_text() for rank in (0, 1)] == ["1", "1"]
    assert run.processes() == []


def test_the_first_failure_behind_torchrun_is_the_runs_exit_code(run: Run) -> None:
    """torchrun itself answers 1 to every failure and buries the trainer's words under its own."""
    fails = "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(4)\ntime.sleep(600)"
    run.is_given([sys.executable, "-c", fails], starter=torchrun(2), processes=2)
    run.sh("start")
    wait_until(run.ended, seconds=60)
    assert run.status()["exit_code"] == "4"
    assert "Traceback" not in run.log
    assert run.processes() == []
