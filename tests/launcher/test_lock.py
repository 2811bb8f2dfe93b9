"""The lock: one holder, whoever died; and the second is told who it is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.clock import SystemClock
from launcher.errors import Busy, LocalFault
from launcher.lock import ORPHAN_SECONDS, hold, holder_of

HOLDER = """
import sys, pathlib
from launcher.clock import SystemClock
from launcher.lock import hold
with hold(pathlib.Path(sys.argv[1]), "gptops sync demo --watch", SystemClock()) as lock:
    {inside}
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(path: Path, inside: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another program that holds the lock until its stdin closes."""
    argv = [sys.executable, "-c", HOLDER.format(inside=inside), str(path)]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def test_the_second_is_told_who_holds_it_since_when_and_for_what(tmp_path, fake_clock):
    path = tmp_path / "locks" / "run-1.lock"
    with other_process(path) as other, pytest.raises(Busy) as caught, hold(path, "mine", fake_clock):
        pass
    assert caught.value.what == "another gptops works on run-1"
    assert f"pid {other.pid} on {socket.gethostname()}" in caught.value.why
    assert "gptops sync demo --watch" in caught.value.why
    assert caught.value.hint == f"wait for it, or end it: kill {other.pid}"
    assert fake_clock.slept == []


def test_it_can_be_taken_again_after_the_holder_let_go(tmp_path, fake_clock):
    path = tmp_path / "run.lock"
    for _ in range(2):
        with hold(path, "mine", fake_clock):
            assert holder_of(path).pid == os.getpid()
    assert holder_of(path) is None


def test_it_is_free_when_its_holder_was_killed_whatever_the_file_says(tmp_path, fake_clock):
    path = tmp_path / "run.lock"
    with other_process(path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert holder_of(path).pid == other.pid
    with hold(path, "mine", fake_clock):
        assert holder_of(path).pid == os.getpid()
    assert fake_clock.slept == []


def test_a_child_that_outlives_its_killed_holder_is_waited_for(tmp_path):
    path = tmp_path / "run.lock"
    orphan = "import subprocess; subprocess.Popen(['sleep', '0.3'], pass_fds=(lock,), stdin=-3, stdout=-3)"
    with other_process(path, inside=orphan) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        with hold(path, "mine", SystemClock()):
            assert holder_of(path).pid == os.getpid()


def test_the_wait_for_an_orphan_ends(tmp_path, fake_clock):
    path = tmp_path / "run.lock"
    orphan = "import subprocess; print(subprocess.Popen(['sleep', '60'], pass_fds=(lock,), stdin=-3, stdout=-3).pid)"
    argv = [sys.executable, "-c", HOLDER.format(inside=orphan), str(path)]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    orphan_pid = int(child.stdout.readline())
    try:
        child.kill()
        child.communicate()
        with pytest.raises(Busy, match="another gptops works on run"), hold(path, "mine", fake_clock):
            pass
        assert sum(fake_clock.slept) >= ORPHAN_SECONDS
    finally:
        os.kill(orphan_pid, signal.SIGKILL)


def test_a_holder_on_another_machine_is_never_taken_for_dead(tmp_path, fake_clock):
    path = tmp_path / "run.lock"
    with other_process(path):
        elsewhere = {"pid": 2**22 - 1, "host": "another-laptop", "since": 0.0, "what": "gptops sync"}
        path.write_text(json.dumps(elsewhere))
        with pytest.raises(Busy) as caught, hold(path, "mine", fake_clock):
            pass
    assert "another-laptop" in caught.value.why
    assert fake_clock.slept == []


def test_a_holder_that_has_not_written_its_name_yet_is_given_a_moment(tmp_path, fake_clock):
    path = tmp_path / "run.lock"
    with other_process(path):
        path.write_text("")
        with pytest.raises(Busy) as caught, hold(path, "mine", fake_clock):
            pass
    assert caught.value.hint == f"see who: fuser {path}"
    assert fake_clock.slept


def test_a_folder_that_cannot_be_made_is_a_local_fault(tmp_path, fake_clock):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LocalFault, match="could not open the lock"),
        hold(tmp_path / "file" / "x.lock", "m", fake_clock),
    ):
        pass
