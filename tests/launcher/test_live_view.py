"""What is shown of an errand while it goes on: the same values as rows of a terminal and as one line elsewhere."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import screen
from launcher.books.ledger import InstanceRow, InstanceState
from launcher.managed.errand import Errand
from launcher.managed.verdict import Facts, Sight
from launcher.managed.view import View, view_of
from launcher.running.status import Phase, RunStatus

NOW = 1_700_000_000.0
ROW = InstanceRow(
    "gptops:p:1", "demo-1a2b", "vast", "p", InstanceState.OPEN, "7", 2.14, 2, "H100", "root@192.0.2.7:22", NOW, None,
    deadline=NOW + 5400,
)  # fmt: skip
ERRAND = Errand(errand_id="demo-1a2b", project_root="/p", jobs=("demo", "sft"), host_name="demo-1a2b", run_id="demo-1")
SAID = "step 400/2000  loss 3.1000  lr 1e-3  eta 9m\nvalidation\nstep 500/2000  loss 2.3141  lr 3.0e-04  eta 2m10s"
GOING = Facts(run=RunStatus(Phase.RUNNING, alive=True, step=500), said=SAID, gpus="97 % 98 %")


def seen(facts: Facts, *, newest: int = 400, limit: float | None = 20.0) -> View:
    return view_of(ERRAND, [ROW], facts, names=[ROW.name], spent=3.5, limit=limit, newest=newest, now=NOW)


def test_everything_that_is_known_is_shown() -> None:
    assert dict(seen(GOING).rows) == {
        "job": "demo (1 of 2)  demo-1",
        "host": "demo-1a2b  $2.14/h  running",
        "spent": "$3.50 of $20.00",
        "step": "500/2000",
        "loss": "2.3141",
        "eta": "2m10s",
        "GPUs": "97 % 98 %",
        "at home": "step_00000400",
        "ends itself": "in 1 h 30 min",
    }


def test_without_a_terminal_it_is_one_line() -> None:
    expected = (
        "demo-1  demo-1a2b  running  step 500/2000  loss 2.3141  eta 2m10s  at home step_00000400  $3.50 of $20.00"
    )
    assert seen(GOING).line == expected


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (Facts(sight=Sight.UNKNOWN), "the provider does not answer"),
        (Facts(silent_seconds=61.0), "no answer for 61 s"),
        (Facts(sight=Sight.PREEMPTED), "preempted"),
        (Facts(run=RunStatus(Phase.RUNNING, alive=True), stopping="its 2 hours"), "saving, to end"),
        (Facts(run=RunStatus(Phase.ENDED, exit_code=0)), "ended"),
    ],
)
def test_its_state_is_in_words(facts: Facts, state: str) -> None:
    view = seen(facts, newest=-1, limit=None)
    assert (view.state, view.home, view.spent) == (state, "nothing yet", "$3.50")


def test_a_line_is_said_once_until_it_changes(capsys: pytest.CaptureFixture[str]) -> None:
    with screen.Live() as live:
        for line in ("a", "a", "b"):
            live.draw([("step", line)], line)
        with live.progress("step_00000400", 100) as update:
            update(50)
        live.say("synced `step_00000400`")
    assert capsys.readouterr().err == "a\nb\nsynced `step_00000400`\n"


IN_A_TERMINAL = """
from launcher import console, screen
with screen.Live() as live:
    live.draw([("host", "box\\x1b[2J"), ("step", "1/9")], "")
    live.say("above [bold]it[/]")
    with live.progress("step_00000400", 100) as update:
        update(50)
    live.draw([("host", "box"), ("step", "2/9")], "")
"""


def test_in_a_terminal_rows_change_in_place_and_the_last_ones_stay() -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", IN_A_TERMINAL], stderr=follower, env=environment) as process:
        os.close(follower)
        shown = _all_of(leader)
        assert process.wait(timeout=60) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "above [bold]it[/]" in plain
    assert "transfer  step_00000400: 50%" in plain
    assert "\x1b[2J" not in shown
    assert plain.replace("\r", "").rstrip().endswith("host        box\nstep        2/9")


def _all_of(terminal: int) -> str:
    """Everything that was written to it, until nobody can write any more."""
    written = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            block = os.read(terminal, 65536)
        except OSError:  # Linux says so where others say b""
            break
        if not block:
            break
        written += block
    os.close(terminal)
    return written.decode(errors="replace")
