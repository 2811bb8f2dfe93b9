"""How gptops ends: every error has its exit code and its three lines, and nothing ends in a traceback."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import errors
from launcher.cli import main, verbs
from launcher.errors import ExitCode, GptopsError
from launcher.paths import state_paths
from tests.launcher.exploding_verbs import ENDS
from tests.launcher.waiting import wait_until

ROOT = Path(__file__).parents[2]
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GptopsError)]
FAMILY = [kind for kind in KINDS if kind is not GptopsError]


@pytest.fixture(autouse=True)
def _lend_the_verb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    exploding = verbs.Verb("explode", "tests.launcher.exploding_verbs", verbs.RUNS)
    monkeypatch.setattr(verbs, "VERBS", (*verbs.VERBS, exploding))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_each_kind_of_error_ends_with_its_own_code(kind: type[GptopsError], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explode", kind.__name__]) == kind.exit_code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: what\nwhy:   why\nhint:  hint\n")


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_with_json_the_error_is_json_on_stdout(kind: type[GptopsError], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explode", kind.__name__, "--json"]) == kind.exit_code
    captured = capsys.readouterr()
    fields = {"what": "what", "why": "why", "hint": "hint", "exit_code": kind.exit_code}
    assert (json.loads(captured.out), captured.err) == ({"error": fields}, "")


def test_no_two_kinds_share_a_code_and_the_page_for_users_has_all() -> None:
    codes = [kind.exit_code for kind in FAMILY if GptopsError in kind.__bases__]
    assert len(set(codes)) == len(codes)
    page = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"| {int(code)} | " in page, f"exit code {int(code)} is not in docs/exit-codes.md"
    for kind in FAMILY:
        assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("end", ["ctrl-c", "end-of-input", "abort"])
def test_an_interruption_is_one_line_and_130(end: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explode", end]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_verb_may_end_with_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explode", "exit-9"]) == 9
    assert capsys.readouterr().err == ""


def test_an_error_of_the_doorway_is_one_of_jobs_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explode", "trainer"]) == ExitCode.JOBS
    assert capsys.readouterr().err == "error: optim.lr is wrong\nwhy:   it is text\nhint:  write 3e-4\n"


def test_what_this_machine_refuses_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explode", "disk-full"]) == ExitCode.LOCAL_FAULT
    assert "cannot use `/data/x`\nwhy:   No space left on device\nhint:  make room" in capsys.readouterr().err
    assert main(["explode", "forbidden"]) == ExitCode.LOCAL_FAULT
    assert "cannot use `/data/\\udcff`" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["bug", "socket"])
def test_a_bug_asks_for_a_report_and_keeps_its_traceback(end: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explode", end]) == ExitCode.BUG
    said = capsys.readouterr().err
    assert said.startswith(f"error: a bug in gptops: {type(ENDS[end]).__name__}: ")
    assert "Traceback" not in said
    assert "\x1b" not in said
    [report] = (state_paths().root / "bugs").iterdir()
    assert str(report) in said
    assert "exploding_verbs.py" in report.read_text()
    assert stat.S_IMODE(report.stat().st_mode) == 0o600


def test_a_bug_whose_report_cannot_be_written_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPTOPS_HOME", str(tmp_path / "file" / "below"))
    assert main(["explode", "bug"]) == ExitCode.BUG
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        (["chekc"], "there is no verb `chekc` (did you mean `check`?)", "gptops --help"),
        (["xyzzy"], "there is no verb `xyzzy`", "gptops --help"),
        (["check", "--jbo", "a"], "No such option: --jbo", "gptops check --help"),
        (["check", "--job"], "Option '--job' requires an argument", "gptops check --help"),
        (["--nope"], "No such option: --nope", "gptops --help"),
    ],
)
def test_a_command_line_that_means_nothing_says_where_to_look(
    words: list[str], what: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert said.startswith(f"error: {what}")
    assert said.endswith(f"hint:  {hint}\n")


def test_no_words_at_all_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert "Usage: gptops" in captured.out + captured.err
    assert "error" not in captured.err


def test_json_after_two_dashes_belongs_to_the_command_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explode", "NotFound", "--", "--json"]) == ExitCode.USAGE  # one argument too many, and told as text
    assert capsys.readouterr().err.startswith("error: ")


def test_the_version_is_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "gptops 0.1.0\n"


def test_a_full_disk_behind_stdout_is_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        argv = [sys.executable, "-m", "launcher", "schema"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == ExitCode.LOCAL_FAULT
    assert os.strerror(errno.ENOSPC) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_real_ctrl_c_is_one_line_and_130(tmp_path: Path) -> None:
    pipe = tmp_path / "jobs.yaml"
    os.mkfifo(pipe)
    argv = [sys.executable, "-m", "launcher", "check", str(pipe)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    opened: list[int] = []

    def is_reading() -> bool:
        try:
            opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # ENXIO: nobody reads yet
            return False
        return True

    wait_until(is_reading, what="gptops reads the file")
    child.send_signal(signal.SIGINT)
    # A signal between two system calls is noticed after the second one: reading must not wait for ever.
    os.close(opened[0])
    out, said = child.communicate(timeout=30)
    assert (child.returncode, out, said) == (130, "", "interrupted\n")
