"""`gptops sync` as it is typed: what it says, what it answers to a program, and its exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import Ledger
from launcher.checkpoints.pull import Pulled
from launcher.cli import main
from launcher.cli.checkpoints import summary
from launcher.clock import SystemClock
from launcher.lock import hold
from launcher.paths import LocalRun
from launcher.remote.ssh import SshTransport
from tests.launcher.checkpoint_maker import Scene, ended, names, register
from tests.launcher.conftest import SshHost


@pytest.fixture
def scene(
    ssh_host: SshHost, transport: SshTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    monkeypatch.setenv("GPTOPS_HOME", str(ssh_host.state.root))
    with Ledger(ssh_host.state.ledger, SystemClock()) as ledger:
        register(ssh_host, ledger)
        yield Scene(ssh_host, transport, LocalRun(tmp_path / "run"), ledger)


@pytest.mark.parametrize(
    ("size", "seconds", "words"),
    [
        (1_503_238_554, 12.4, "1.4 GiB, 12 s, 116 MiB/s"),
        (600_002, 0.25, "586 KiB, 0.2 s, 2.3 MiB/s"),
        (0, 0.0, "0 B, 0.0 s, 0 B/s"),
    ],
)
def test_a_summary_line_says_size_time_and_speed(size: int, seconds: float, words: str) -> None:
    assert summary(Pulled(500, "step_00000500", size, seconds, Path())) == f"synced `step_00000500` ({words})"


def test_each_checkpoint_has_a_line_of_talk_and_stdout_stays_empty(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.publish(1, 2, 3)
    assert main(["sync", scene.run_id]) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert [re.sub(r"\(.*\)", "()", line) for line in lines[:3]] == [f"synced `{name}` ()" for name in names(3, 2, 1)]
    assert re.search(r"3 came home, 1 deleted on the host, 2 kept there", lines[3])
    assert said.out == ""


def test_json_is_for_programs(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.publish(1, 2, 3)
    ended(scene.host, scene.run_id, exit_code=9)
    assert main(["sync", scene.run_id, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["run"], answer["folder"]) == (scene.run_id, str(scene.home.root))
    assert (answer["phase"], answer["exit_code"]) == ("ended", 9)
    assert [one["step"] for one in answer["synced"]] == [3, 2, 1]
    assert (answer["home"], answer["pruned"], answer["missing"]) == ([1, 2, 3], [1, 2, 3], [])


def test_the_beginning_of_a_runs_name_is_enough_and_no_delete_deletes_nothing(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    assert main(["sync", scene.run_id[:-1], "--no-delete"]) == 0
    assert (scene.steps_here(), scene.steps_there()) == (names(1, 2, 3), names(1, 2, 3))


def test_a_corrupt_checkpoint_ends_with_its_exit_code_and_the_others_are_home(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.publish(1, 2)
    (scene.there / "step_00000001" / "model.safetensors").write_bytes(b"damaged")
    assert main(["sync", scene.run_id]) == 10
    assert "error: `step_00000001` did not come home whole" in capsys.readouterr().err
    assert main(["sync", scene.run_id, "--json"]) == 10
    answer = json.loads(capsys.readouterr().out)
    assert answer["missing"] == [1]
    assert answer["problems"][0]["what"] == "`step_00000001` did not come home whole"
    assert scene.steps_here() == names(2)


def test_the_second_of_two_is_told_who_works_there(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    lock = scene.host.state.locks / f"{scene.run_id}.lock"
    with hold(lock, f"gptops sync {scene.run_id} --watch", SystemClock()):
        assert main(["sync", scene.run_id, "--json"]) == 11
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["what"] == f"another gptops works on {scene.run_id}"
    assert f"gptops sync {scene.run_id} --watch" in error["why"]


def test_watching_an_ended_run_brings_everything_home_and_ends(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.publish(1, 2, 3)
    ended(scene.host, scene.run_id)
    assert main(["sync", scene.run_id, "--watch", "--interval", "0.1"]) == 0
    assert "ended with exit code 0: 3 came home, 3 deleted on the host, 0 kept there" in capsys.readouterr().err
    assert (scene.steps_here(), scene.steps_there()) == (names(1, 2, 3), [])


def test_an_unknown_run_is_not_found(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", "no-such-run"]) == 4
    assert "there is no run `no-such-run`" in capsys.readouterr().err
