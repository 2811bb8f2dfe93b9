"""RunStatus: made of whatever a host answers."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import HostUnfit
from launcher.paths import RemoteRun
from launcher.remote.ssh import SshTransport
from launcher.remote.transport import Result
from launcher.running.status import Phase, RunStatus, parse_status, read_status, status_of

RUNNING = """\
phase=running
attempt=1
exit_code=
started_at=1700000000
ended_at=
stop_requested=
pgid=12
pid=11
alive=yes
supervisor=yes
processes=3
heartbeat_age=1
log_bytes=4096
step=20
checkpoint=00000010
now=1700000100
end=yes
"""


def answer(text: str) -> RunStatus:
    return status_of(Result(0, text, ""), "host")


def test_an_answer_becomes_a_status() -> None:
    assert answer(RUNNING) == RunStatus(
        phase=Phase.RUNNING,
        alive=True,
        processes=3,
        attempt=1,
        started_at=1_700_000_000,
        heartbeat_age_seconds=1,
        log_bytes=4096,
        step=20,
        checkpoint_step=10,
    )


@pytest.mark.parametrize(
    ("changes", "phase"),
    [
        ({"phase": "starting"}, Phase.STARTING),
        ({"phase": "starting", "alive": "no"}, Phase.LOST),
        ({"alive": "no"}, Phase.LOST),
        ({"phase": "ended", "alive": "no", "exit_code": "0"}, Phase.ENDED),
        ({"phase": "", "alive": "no", "attempt": "0"}, Phase.ABSENT),
        ({"phase": "", "alive": "yes"}, Phase.STARTING),
        ({"phase": "", "alive": "no"}, Phase.LOST),
    ],
)
def test_the_phase_is_what_is_written_and_what_lives(changes: dict[str, str], phase: Phase) -> None:
    facts = dict(line.split("=") for line in RUNNING.splitlines()) | changes
    status = parse_status(facts)
    assert status.phase is phase
    assert status.is_over is (phase in (Phase.ENDED, Phase.LOST, Phase.ABSENT))


@pytest.mark.parametrize(
    ("exit_code", "stop_requested", "succeeded", "stopped"),
    [
        ("0", "", True, False),
        ("75", "", False, True),
        ("75", "1700000000", False, True),
        ("143", "1700000000", False, True),
        ("137", "1700000000", False, True),
        ("137", "", False, False),
        ("3", "1700000000", False, False),
        ("", "", False, False),
    ],
)
def test_how_it_ended_is_told_apart(exit_code: str, stop_requested: str, succeeded: bool, stopped: bool) -> None:
    status = parse_status({"phase": "ended", "exit_code": exit_code, "stop_requested": stop_requested})
    assert (status.has_succeeded, status.was_stopped) == (succeeded, stopped)


@given(st.dictionaries(st.sampled_from([*RunStatus.__dataclass_fields__, "phase", "heartbeat_age"]), st.text()))
def test_any_facts_make_a_status(facts: dict[str, str]) -> None:
    assert isinstance(parse_status(facts), RunStatus)


@given(st.text(), st.text(), st.integers(0, 255))
def test_any_answer_is_a_status_or_a_clear_error(stdout: str, stderr: str, code: int) -> None:
    with suppress(HostUnfit):
        assert isinstance(status_of(Result(code, stdout, stderr), "host"), RunStatus)


def test_half_an_answer_is_not_taken_for_the_whole() -> None:
    with pytest.raises(HostUnfit, match="cannot tell how the run is"):
        answer(RUNNING[: len(RUNNING) // 2])


def test_a_run_that_was_never_there_is_absent(transport: SshTransport) -> None:
    assert read_status(transport, RemoteRun("never-0000")).phase is Phase.ABSENT
