"""What the user sees: two streams, no surprises in either."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from launcher import console, screen
from launcher.errors import JobsError, Unreachable


def test_talk_goes_to_stderr_and_data_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    console.say("working")
    console.warn("mind this")
    console.emit("data")
    captured = capfd.readouterr()
    assert captured.err == "working\nwarning: mind this\n"
    assert captured.out == "data\n"


def test_an_error_is_laid_out_in_three_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_error(
        Unreachable("could not reach root@192.0.2.1:40022", why="connection refused", hint="gptops ps x")
    )
    assert capsys.readouterr().err == (
        "error: could not reach root@192.0.2.1:40022\nwhy:   connection refused\nhint:  gptops ps x\n"
    )


def test_lines_of_an_error_hang_under_the_first_and_empty_fields_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.show_error(JobsError("one\ntwo\n       three", why="", hint=""))
    assert capsys.readouterr().err == "error: one\n       two\n       three\n"


def test_an_error_as_json_has_its_exit_code() -> None:
    error = console.error_json(JobsError("what", why="why", hint="hint"))
    assert error == {"error": {"what": "what", "why": "why", "hint": "hint", "exit_code": 3}}
    assert json.loads(json.dumps(error)) == error


def test_a_table_is_aligned_numbers_to_the_right_and_nothing_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("name", "gpus", "at"), [("日本", 8, "x\ny"), ("local-3f2a", 16, None)], title="hosts")
    assert capsys.readouterr().out == "hosts\nname        gpus  at\n日本           8  x\\ny\nlocal-3f2a    16  -\n"


def test_a_table_without_rows_is_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("name", "gpus"), [])
    assert capsys.readouterr().out == "name  gpus\n"


def test_names_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("a\x1b[2J\x07\rb" + os.fsdecode(b"\xff") + "\u202e")
    assert capsys.readouterr().err == "a\\x1b[2J\\x07\\rb\\udcff\\u202e\n"


def test_data_that_the_terminal_cannot_encode_is_escaped_not_fatal() -> None:
    program = "from launcher import console; console.emit('ümlaut …'); console.say('ümlaut …')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment)
    assert (done.returncode, done.stdout) == (0, b"\\xfcmlaut \\u2026\n")
    assert b"mlaut" in done.stderr


def test_bytes_pass_through_unchanged(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    console.emit_bytes(b"\xff\x00\x1b[31m\r\n")
    assert capfdbinary.readouterr().out == b"\xff\x00\x1b[31m\r\n"


def test_progress_is_silent_where_nobody_watches(capfd: pytest.CaptureFixture[str]) -> None:
    with screen.progress("pulling", 100) as update:
        update(50)
    assert capfd.readouterr().err == ""


def seen_on_a_terminal(program: str, **environment: str) -> str:
    """What a program shows on a real pseudo-terminal as stderr."""
    reading, writing = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=writing,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", **environment},
    )
    os.close(writing)
    shown = b""
    try:
        while chunk := os.read(reading, 65536):
            shown += chunk
    except OSError:  # Linux ends a pty with EIO
        pass
    finally:
        os.close(reading)
    assert child.wait() == 0
    return shown.decode()


BAR = """
from launcher import console, screen
with screen.progress("pulling `[bold]step_00000500`", 200_000_000) as update:
    update(50_000_000)
    update(150_000_000)
"""


def test_progress_on_a_terminal_has_a_bar_with_rate_and_time_left() -> None:
    shown = seen_on_a_terminal(BAR)
    assert "pulling `[bold]step_00000500`" in shown
    assert "150.0/200.0 MB" in shown
    assert "MB/s" in shown or "?" in shown


def test_colour_is_for_terminals_that_want_it() -> None:
    program = "from launcher import console; console.warn('x')"
    assert "\x1b[33mwarning:" in seen_on_a_terminal(program, NO_COLOR="")
    assert "\x1b" not in seen_on_a_terminal(program, NO_COLOR="1")
    assert "\x1b" not in seen_on_a_terminal(program, NO_COLOR="", TERM="dumb")


def test_a_reader_that_left_ends_the_program_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "launcher", "schema"]
    done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
