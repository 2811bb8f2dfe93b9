"""train, logs and stop as a user calls them, against a real sshd with real runs."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger, RunRow, RunState
from launcher.cli import main
from launcher.clock import SystemClock
from launcher.paths import StatePaths
from tests.launcher.checkpoint_maker import ended
from tests.launcher.conftest import SshHost
from tests.launcher.desk import ENDLESS, JOBS, Desk, register
from tests.launcher.waiting import wait_until

HOSTILE = 'it\'s "quoted" $(touch evil) `x`\n; second line é'
SECRET = "s3cr3t '$(touch evil)' value\nin two lines"

FAILS = """
import sys
print("step 1")
print("error: `corpus.txt` is empty")
sys.exit(3)
"""


@pytest.fixture
def desk(ssh_host: SshHost, tmp_path: Path) -> Iterator[Desk]:
    register(ssh_host)
    made = Desk((tmp_path / HOSTILE.replace("\n", " ")).resolve(), ssh_host)
    made.trainer(ENDLESS)
    yield made
    for row in made.runs():
        if row.state is not RunState.ENDED:
            made.gptops("stop", row.run_id, "--grace", "0")


def test_train_streams_the_log_and_everything_arrives_as_it_is(desk: Desk) -> None:
    show = "import os, sys\nprint([os.environ['ENV'], os.environ['TOKEN']], sys.argv[1:], os.getcwd()[-5:])\n"
    jobs = f"{JOBS}    env: {{ENV: {json.dumps(HOSTILE)}}}\n    secrets: [TOKEN]\n"
    desk.trainer(show, jobs)
    done = desk.gptops("train", "demo", TOKEN=SECRET)
    talk = done.stderr.decode()
    assert done.returncode == 0, talk
    assert done.stdout.decode() == f"{[HOSTILE, SECRET]} ['pretrain', '--config', '../train.yaml'] /code\n"
    [row] = desk.runs()
    assert (row.state, row.exit_code) == (RunState.ENDED, 0)
    assert talk.index(f"`{row.run_id}` runs on") < talk.index("has ended well")
    assert f"gptops logs {row.run_id} -f" in talk
    assert desk.local_log(row.run_id).read_bytes() == desk.remote_log(row.run_id).read_bytes() == done.stdout
    assert (desk.project / "runs" / ".gitignore").read_text() == "*\n"
    assert stat.S_IMODE((desk.remote(row.run_id) / "run.env").stat().st_mode) == 0o600
    assert list(desk.host.home.rglob("evil")) == list(desk.project.rglob("evil")) == []
    assert_the_secret_is_nowhere_else(desk, row.run_id, talk)


def assert_the_secret_is_nowhere_else(desk: Desk, run_id: str, talk: str) -> None:
    assert "s3cr3t" not in talk
    with sqlite3.connect(desk.host.state.ledger) as ledger:
        assert "s3cr3t" not in "\n".join(ledger.iterdump())
    ledger.close()
    remote = desk.remote(run_id)
    holding = {path.name for path in remote.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()}
    assert holding == {"run.env", "train.log"}, "the program of this test prints it; nothing else does"


def test_a_failed_training_is_told_with_its_code_and_last_words(desk: Desk) -> None:
    desk.trainer(FAILS)
    done = desk.gptops("train", "demo", "--skip-setup")
    [row] = desk.runs()
    assert done.returncode == 9
    assert done.stdout == b"step 1\nerror: `corpus.txt` is empty\n"
    assert f"error: `{row.run_id}` ended with exit code 3: its data could not be used" in done.stderr.decode()
    assert "       error: `corpus.txt` is empty\n" in done.stderr.decode()
    assert (row.state, row.exit_code) == (RunState.ENDED, 3)
    again = desk.gptops("logs", row.run_id, "--since", "10m")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    followed = desk.gptops("logs", row.run_id, "-f", "--since", "7")
    assert (followed.returncode, followed.stdout) == (9, b"error: `corpus.txt` is empty\n")
    known = json.loads(desk.gptops("logs", row.run_id, "--json").stdout)
    assert (known["phase"], known["exit_code"], known["text"]) == ("ended", 3, done.stdout.decode())


def test_ctrl_c_leaves_at_once_and_the_run_is_followed_again_and_stopped(desk: Desk) -> None:
    run_id = begun_and_left(desk)
    log = desk.remote_log(run_id)
    size = log.stat().st_size
    wait_until(lambda: log.stat().st_size > size + 500, what="the run goes on")
    with desk.start("logs", run_id, "-f") as following:
        assert following.stdout is not None
        assert following.stderr is not None
        first = following.stdout.read(size)
        stopped = desk.gptops("stop", run_id, "--json")
        rest, talk = following.stdout.read(), following.stderr.read().decode()
    assert following.returncode == 75
    assert first + rest == log.read_bytes() == desk.local_log(run_id).read_bytes()
    assert f"`{run_id}` was stopped" in talk
    assert "newest checkpoint `step_00000007`, bring it home" in talk
    answer = json.loads(stopped.stdout)
    assert (answer["phase"], answer["exit_code"], answer["processes"], answer["alive"]) == ("ended", 75, 0, False)
    again = desk.gptops("stop", run_id)
    assert (again.returncode, desk.run(run_id).exit_code) == (0, 75)
    assert "newest checkpoint `step_00000007`" in again.stderr.decode()


def begun_and_left(desk: Desk) -> str:
    """Train, with --json, until the log comes; then Ctrl-C. Returns the run's id."""
    with desk.start("train", "demo", "--skip-setup", "--json") as training:
        assert training.stdout is not None
        assert training.stderr is not None
        begun = json.loads(training.stdout.readline())
        log = json.loads(training.stdout.readline())
        os.killpg(training.pid, signal.SIGINT)
        training.wait(60)  # the run itself goes on much longer
        talk = training.stderr.read().decode()
    assert (begun["host"], begun["state"]) == (desk.host.host.name, "running")
    assert begun["local_root"] == str(desk.project / "runs" / begun["run_id"])
    assert (log["offset"], log["text"][:6]) == (0, "step 1")
    assert training.returncode == 130
    assert f"detached; `{begun['run_id']}` goes on: come back with `gptops logs {begun['run_id']} -f`" in talk
    return str(begun["run_id"])


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("train", "dem"), 4, "has no job `dem` (did you mean `demo`?)"),
        (("train", "demo", "train.max_stepz=3"), 3, "(did you mean `max_steps`?)"),
        (("train", "demo", "--host", "nowhere"), 4, "there is no host `nowhere`"),
        (("logs", "never"), 4, "there is no run `never`"),
        (("logs", "never", "--since", "yesterday"), 2, "`yesterday` is neither a time nor a byte"),
        (("stop", "never"), 4, "there is no run `never`"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_touched(
    words: tuple[str, ...],
    code: int,
    text: str,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(desk.project)
    monkeypatch.setenv("GPTOPS_HOME", str(desk.host.state.root))
    assert main(words) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert text in said.err
    assert desk.runs() == []


def test_a_missing_secret_is_said_before_anything_is_touched(desk: Desk) -> None:
    desk.trainer(ENDLESS, f"{JOBS}    secrets: [HF_TOKEN, WANDB_API_KEY]\n")
    done = desk.gptops("train", "demo", HF_TOKEN="", WANDB_API_KEY="x")
    assert done.returncode == 3
    assert "the job `demo` needs `HF_TOKEN`, not set in your environment" in done.stderr.decode()
    assert "export HF_TOKEN=..." in done.stderr.decode()
    assert not (desk.project / "runs").exists()


def test_with_no_host_open_the_way_to_one_is_told(desk: Desk, tmp_path: Path) -> None:
    done = desk.gptops("train", "demo", GPTOPS_HOME=str(tmp_path / "fresh"))
    assert done.returncode == 4
    assert "gptops up --provider local" in done.stderr.decode()


def test_a_dry_run_touches_nothing(desk: Desk, tmp_path: Path) -> None:
    desk.trainer(ENDLESS, f"{JOBS}    secrets: [TOKEN]\n")
    before = sorted(desk.host.home.rglob("*"))
    done = desk.gptops("train", "demo", "--dry-run", TOKEN=SECRET)
    assert done.returncode == 0, done.stderr.decode()
    assert "s3cr3t" not in done.stdout.decode()
    assert "  TOKEN='********'\n" in done.stdout.decode()
    as_json = json.loads(desk.gptops("train", "demo", "--dry-run", "--json", TOKEN=SECRET).stdout)
    assert as_json["environment"]["TOKEN"] == "********"
    hostless = desk.gptops("train", "demo", "--dry-run", TOKEN=SECRET, GPTOPS_HOME=str(tmp_path / "fresh"))
    assert "host:      none is open yet" in hostless.stdout.decode()
    assert not (desk.project / "runs").exists()
    assert sorted(desk.host.home.rglob("*")) == before
    assert desk.runs() == []


def test_the_log_is_still_there_when_the_host_is_gone(desk: Desk, tmp_path: Path) -> None:
    local = desk.project / "runs" / "demo-0000"
    local.mkdir(parents=True)
    (local / "train.log").write_bytes(b"step 1\n\xff")
    state = StatePaths(tmp_path / "state")
    with Ledger(state.ledger, SystemClock()) as ledger:
        row = ledger.intend_instance(
            label="gptops:demo:1", name="vast-1a2b", provider="local", project="demo",
            price_per_hour=0.0, gpus=0, gpu_name="",
        )  # fmt: skip
        ledger.mark_instance(row.label, InstanceState.CLOSED)
        ledger.add_run(
            RunRow(
                "demo-0000", "demo", row.name, row.label, str(desk.project), str(local), 0.0, RunState.ENDED, 0, True, 2
            )
        )
    for words in (("logs",), ("logs", "-f")):
        done = desk.gptops(*words, GPTOPS_HOME=str(state.root))
        assert (done.returncode, done.stdout) == (0, b"step 1\n\xff")
        assert "warning: `vast-1a2b` was closed; this is the copy at home" in done.stderr.decode()
    assert desk.gptops("stop", GPTOPS_HOME=str(state.root)).returncode == 4


def test_logs_of_a_run_of_which_nothing_lives_say_so(desk: Desk) -> None:
    """Without a word of its own, an empty log would look like one that is about to begin."""
    row = RunRow(
        "demo-lost", "demo", desk.host.host.name, desk.host.instance.label, str(desk.project),
        str(desk.project / "runs" / "demo-lost"), 0.0, RunState.RUNNING, None, True, 2,
    )  # fmt: skip
    with desk.ledger() as ledger:
        ledger.add_run(row)
    ended(desk.host, row.run_id)
    status = desk.remote(row.run_id) / "status"
    (status / "phase").write_text("running\n")
    (status / "exit_code").unlink()
    done = desk.gptops("logs", row.run_id)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"warning: nothing of `demo-lost` lives on" in done.stderr
    with desk.ledger() as ledger:
        ledger.mark_run(row.run_id, RunState.ENDED)
