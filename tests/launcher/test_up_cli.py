"""`gptops up` at the double of Vast, as processes: it asks before it spends, and a kill at any step leaves no bill."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.clock import SystemClock
from launcher.errors import ExitCode
from launcher.hosts.closing import finish_leftovers
from launcher.hosts.down import Downer
from launcher.paths import StatePaths, state_paths
from launcher.running.tick import Talk
from tests.doubles.cloud import Reply
from tests.doubles.fixtures import vast, vast_rows  # noqa: F401 (fixtures)
from tests.doubles.vast_api import CREATE, ONE
from tests.doubles.vast_cloud import VastCloud
from tests.launcher.command_line import ROOT, Finished, gptops
from tests.launcher.hurry import HurriedClock
from tests.launcher.waiting import wait_until

JOBS = """\
jobs:
  box:
    stage: pretrain
    provider: vast
    resources: {gpus: 1, gpu_names: [H100], disk_gib: 20}
    budget: {max_usd: 50}
    setup: {shell: ["true"]}     # so `up` leaves the set-up to `train`: it is the slow part, and not what is tested
"""
UP = ("up", "--job", "box", "--name", "box")


@dataclass
class Desk:
    """A user with a job, and an account at Vast."""

    state: StatePaths
    folder: Path

    def gptops(self, *words: str, crash_at: str = "") -> Finished:
        return gptops(*words, home=self.state.root, cwd=self.folder, crash_at=crash_at)

    def goes_on(self) -> None:
        """What the next `gptops up`, `down` or `gc` does first, and `down` of what is open; without the pauses."""
        clock, said = HurriedClock(), list[str]()
        talk = Talk(lambda name, total: nullcontext(lambda done: None), lambda pulled: None, said.append)
        with Ledger(self.state.ledger, clock) as ledger:
            finish_leftovers(ledger, self.state, clock, said.append)
            downer = Downer(ledger, self.state, clock, talk)
            for row in ledger.instances(InstanceState.OPEN):
                downer.end(row)

    def rows(self, *states: InstanceState) -> list[InstanceRow]:
        with Ledger(self.state.ledger, SystemClock()) as ledger:
            return ledger.instances(*states)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "jobs.yaml").write_text(JOBS)
    return Desk(state_paths(), tmp_path)


def nothing_bills(double: VastCloud) -> bool:
    """The meter's word."""
    assert double.alive() == []
    assert double.meter.per_hour == 0.0
    assert double.dollars() < 1.0
    return True


def test_up_to_down_at_a_market(vast: VastCloud, desk: Desk) -> None:  # noqa: F811
    up = desk.gptops(*UP, "--yes")
    assert (up.exit_code, up.stdout) == (0, "box\n"), up.stderr
    told = [
        "`box`: 1x H100 SXM, Oregon, US at `vast`",
        "cost: $2.10 an hour, $50.50 a day",
        "this job there: about",
        "✓ offer 1004: 1x H100 SXM, Oregon, US at $2.10/h",
        "✓ created",
        "✓ running",
        "✓ SSH answers at root@127.0.0.1:",
        "✓ 1 GPU: NVIDIA H100 80GB HBM3",
        "`box` ends itself in",
        "`box` is ready at root@127.0.0.1:",
    ]
    at = [up.stderr.find(words) for words in told]
    assert -1 not in at, up.stderr
    assert at == sorted(at), up.stderr
    [row] = json.loads(desk.gptops("ps", "--json").stdout)
    assert (row["name"], row["gpus"]) == ("box", 1)
    down = desk.gptops("down", "box")
    assert down.exit_code == 0, down.stderr
    assert nothing_bills(vast)


def test_where_nobody_can_be_asked_nothing_is_spent_without_yes(vast_rows: VastCloud, desk: Desk) -> None:  # noqa: F811
    refused = desk.gptops(*UP)
    assert refused.exit_code == ExitCode.USAGE
    assert "$2.10 an hour, $50.50 a day" in refused.stderr
    assert "--yes" in refused.stderr
    assert vast_rows.count("PUT", CREATE) == 0
    assert desk.rows() == []


def test_a_dry_run_at_a_market_shows_the_plan_and_opens_nothing(vast_rows: VastCloud, desk: Desk) -> None:  # noqa: F811
    plan = json.loads(desk.gptops(*UP, "--dry-run", "--json").stdout)
    assert (plan["offer_id"], plan["gpus"], plan["spot"]) == ("1004", 1, False)
    assert plan["predicted_usd"] > 0
    assert not desk.state.ledger.exists()
    assert vast_rows.count("PUT", CREATE) == 0


@pytest.mark.parametrize(("answer", "opens"), [("n", False), ("y", True)])
def test_in_a_terminal_it_asks_with_the_price_and_what_bills_already(
    vast_rows: VastCloud,  # noqa: F811
    desk: Desk,
    answer: str,
    opens: bool,
) -> None:
    vast_rows.script("strangers", count=1, label="gptops:other:1")
    vast_rows.script("offer_taken")
    with in_a_terminal(desk, *UP, "--offer", "1004") as terminal:
        shown = terminal.read_until("open it?")
        assert "cost: $2.10 an hour, $50.50 a day" in shown
        assert "open at `vast` already" in shown
        assert "gptops:other:1-0 $0.40/h" in shown
        assert vast_rows.count("PUT", CREATE) == 0
        terminal.type(f"{answer}\r")
        code = terminal.end()
    assert vast_rows.count("PUT", CREATE) == int(opens)
    assert code == (ExitCode.PROVIDER if opens else ExitCode.INTERRUPTED)
    assert ("✗" in terminal.shown.decode(errors="replace")) is opens, "the list of steps"
    assert desk.rows() == []


# Killed


@pytest.mark.parametrize("point", ["up:intended", "up:created", "up:recorded", "up:authorized"])
def test_up_killed_before_the_machine_answers_leaves_nothing_that_the_next_command_does_not_end(
    vast_rows: VastCloud,  # noqa: F811
    desk: Desk,
    point: str,
) -> None:
    assert desk.gptops(*UP, "--yes", crash_at=point).exit_code == -signal.SIGKILL
    assert [row.name for row in desk.rows()] == ["box"], "the intent is on the disk before the money"
    desk.goes_on()
    assert desk.rows() == []
    assert nothing_bills(vast_rows)


@pytest.mark.parametrize("point", ["up:ready", "up:open", "up:guarded"])
def test_up_killed_with_a_machine_that_answers_leaves_nothing_that_down_does_not_end(
    vast: VastCloud,  # noqa: F811
    desk: Desk,
    point: str,
) -> None:
    assert desk.gptops(*UP, "--yes", crash_at=point).exit_code == -signal.SIGKILL
    assert len(vast.alive()) == 1
    desk.goes_on()
    assert desk.rows() == []
    assert nothing_bills(vast)


@pytest.mark.parametrize(
    ("point", "scenario"),
    [
        ("up:ambiguous", "create_reply_lost"),
        ("up:ambiguous", "error_with_contract"),
        ("up:failed", "oci_error"),
        ("up:ended", "offer_taken"),
        ("up:banned", "offer_taken"),
    ],
)
def test_up_killed_while_it_deals_with_a_failure_leaves_nothing_that_the_next_command_does_not_end(
    vast_rows: VastCloud,  # noqa: F811
    desk: Desk,
    point: str,
    scenario: str,
) -> None:
    vast_rows.script(scenario)
    assert desk.gptops(*UP, "--yes", crash_at=point).exit_code == -signal.SIGKILL
    desk.goes_on()
    assert desk.rows() == []
    assert nothing_bills(vast_rows)


def test_the_same_command_after_a_kill_ends_what_was_left_and_opens_another(vast: VastCloud, desk: Desk) -> None:  # noqa: F811
    assert desk.gptops(*UP, "--yes", crash_at="up:created").exit_code == -signal.SIGKILL
    [first] = vast.alive()
    again = desk.gptops(*UP, "--yes")
    assert again.exit_code == 0, again.stderr
    assert "ended `box`, which an interrupted gptops had left" in again.stderr
    [second] = vast.alive()
    assert first != second
    assert desk.gptops("down", "box").exit_code == 0
    assert nothing_bills(vast)


def test_down_of_a_machine_that_up_could_not_end(vast_rows: VastCloud, desk: Desk) -> None:  # noqa: F811
    """Retried by the client, then told; the row stays, and `down` ends it when the provider answers again."""
    vast_rows.script("oci_error")
    vast_rows.fail("DELETE", ONE, Reply(400, {"success": False, "error": "not_authorized", "msg": "no"}))
    up = desk.gptops(*UP, "--yes")
    assert up.exit_code == ExitCode.PROVIDER
    assert "`box` may still be open and bill $2.10 an hour" in up.stderr
    assert len(vast_rows.alive()) == 1
    assert desk.gptops("down", "box", "--discard").exit_code == 0
    assert nothing_bills(vast_rows)


# A terminal


@dataclass
class Terminal:
    """A gptops that believes it talks to a person."""

    process: subprocess.Popen[bytes]
    descriptor: int
    shown: bytes = b""

    def read_until(self, words: str) -> str:
        wait_until(lambda: self._read() and words.encode() in self.shown, seconds=60, what=words)
        return self.shown.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def end(self) -> int:
        while self._read():
            continue
        return self.process.wait(timeout=60)

    def _read(self) -> bool:
        """More of what it shows; False at its end."""
        try:
            piece = os.read(self.descriptor, 65536)
        except OSError:  # Linux says EIO when the other side is closed
            return False
        self.shown += piece
        return bool(piece)


@contextmanager
def in_a_terminal(desk: Desk, *words: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "GPTOPS_HOME": str(desk.state.root), "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    argv = [sys.executable, "-m", "launcher", *words]
    with subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=desk.folder, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            os.close(ours)
