"""What is done about a run, for everything that can be seen of it: the policy of `gptops run` as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.errors import ExitCode, LocalFault, NotVerified
from launcher.managed.errand import Crash
from launcher.managed.verdict import (
    FRUITLESS_MOVES,
    KILLED,
    SILENCE_SECONDS,
    Action,
    Facts,
    Hope,
    Sight,
    given_up,
    verdict,
)
from launcher.running.status import NodesStatus, Phase, RunStatus
from trainer.errors import ExitCode as TrainerExitCode

RUNNING = Facts(run=RunStatus(Phase.RUNNING, alive=True, step=7))
NO_ANSWER = Facts(run=None)
FULL_HERE = LocalFault("the disk is full here")
DAMAGED = NotVerified("`step_00000002` did not come home whole")


def ended(code: int, step: int | None = 7, *, stop_requested: bool = False, **more: object) -> Facts:
    facts = Facts(run=RunStatus(Phase.ENDED, exit_code=code, step=step, stop_requested=stop_requested))
    return replace(facts, **more)  # type: ignore[arg-type]


def without(name: str, **more: object) -> Facts:
    """A training on two machines that ended at step 7 because this one was lost."""
    nodes = tuple((each, "silent" if each == name else "ended") for each in ("box0", "box1"))
    facts = Facts(run=NodesStatus(Phase.ENDED, exit_code=TrainerExitCode.PEER_LOST, step=7, nodes=nodes))
    return replace(facts, **more)  # type: ignore[arg-type]


LOST_BOX1 = Crash(exit_code=TrainerExitCode.PEER_LOST, step=7, lost=("box1",))
TABLE = [
    ("a run that goes on is waited for", RUNNING, Action.WAIT, None),
    (
        "a run whose disk at home is full goes on",
        replace(RUNNING, trouble=FULL_HERE, hope=Hope.ROOM),
        Action.WAIT,
        None,
    ),
    ("a machine that is gone is replaced", Facts(sight=Sight.GONE), Action.MOVE, None),
    ("a machine that was taken back is replaced", Facts(sight=Sight.PREEMPTED), Action.MOVE, None),
    ("a machine that stopped is replaced", Facts(sight=Sight.BROKEN), Action.MOVE, None),
    ("a machine that does not answer is waited for", NO_ANSWER, Action.WAIT, None),
    ("one that is silent too long is replaced", replace(NO_ANSWER, silent_seconds=SILENCE_SECONDS), Action.MOVE, None),
    (
        "when the provider is silent too, our network is away",
        replace(NO_ANSWER, sight=Sight.UNKNOWN),
        Action.WAIT,
        None,
    ),
    ("a provider that lost sight of it may find it again", replace(NO_ANSWER, sight=Sight.SILENT), Action.WAIT, None),
    ("a limit that is used up stops the run", replace(RUNNING, used_up="its 2 hours"), Action.STOP, None),
    ("a stopped run at home ends the job", ended(75, stopping="its 2 hours"), Action.FAIL, ExitCode.BUDGET),
    ("a machine lost over budget is not replaced", Facts(sight=Sight.GONE, used_up="$3"), Action.FAIL, ExitCode.BUDGET),
    ("success is the end", ended(0), Action.FINISH, None),
    ("success while the limit is reached is success", ended(0, used_up="its 2 hours"), Action.FINISH, None),
    ("success waits for room at home", ended(0, trouble=FULL_HERE, hope=Hope.ROOM), Action.WAIT, None),
    ("success waits for one more transfer", ended(0, trouble=DAMAGED, hope=Hope.AGAIN), Action.WAIT, None),
    ("what cannot come home needs a person", ended(0, trouble=DAMAGED), Action.HOLD, ExitCode.NOT_VERIFIED),
    (
        "room that the money does not wait for needs one too",
        ended(0, trouble=FULL_HERE, hope=Hope.ROOM, used_up="$3"),
        Action.HOLD,
        ExitCode.LOCAL_FAULT,
    ),
    ("a last checkpoint that rotted there is trained again", ended(0, spoiled="step_00000007"), Action.RESTART, None),
    ("a run that somebody stopped ends the job", ended(75, stop_requested=True), Action.FAIL, ExitCode.STOPPED),
    ("a crash is started again", ended(1), Action.RESTART, None),
    ("another crash at another step too", ended(1, crash=Crash(exit_code=1, step=3)), Action.RESTART, None),
    ("the same crash is not", ended(1, crash=Crash(exit_code=1, step=7)), Action.FAIL, ExitCode.RUN_FAILED),
    ("too many crashes are not", ended(1, restarts=3), Action.FAIL, ExitCode.RUN_FAILED),
    ("a training that lost a machine begins anew on the rest", without("box1"), Action.AGAIN, None),
    ("when another is lost at the same step, again", without("box0", crash=LOST_BOX1), Action.AGAIN, None),
    ("not when it is the same one", without("box1", crash=LOST_BOX1), Action.FAIL, ExitCode.RUN_FAILED),
    ("nor too often", without("box0", crash=LOST_BOX1, restarts=3), Action.FAIL, ExitCode.RUN_FAILED),
    ("a killed process is started again", ended(137), Action.RESTART, None),
    ("too little memory is not", ended(1, said="CUDA out of memory"), Action.FAIL, ExitCode.RUN_FAILED),
    (
        "nor what the kernel killed for it",
        ended(137, said="the machine ran out of memory"),
        Action.FAIL,
        ExitCode.RUN_FAILED,
    ),
    ("nor a refused configuration", ended(2), Action.FAIL, ExitCode.RUN_FAILED),
    ("nor bad data", ended(3), Action.FAIL, ExitCode.RUN_FAILED),
    ("nor a program that is not there", ended(127), Action.FAIL, ExitCode.RUN_FAILED),
    ("a full disk there is tried once more", ended(4, said="No space left on device"), Action.RESTART, None),
    ("a machine that restarted trains again", Facts(run=RunStatus(Phase.LOST, attempt=1)), Action.RESTART, None),
    (
        "one that restarts again is replaced",
        Facts(run=RunStatus(Phase.LOST, attempt=2, step=7), crash=Crash(exit_code=KILLED, step=7)),
        Action.MOVE,
        None,
    ),
    ("a run that was removed begins anew", Facts(run=RunStatus(Phase.ABSENT)), Action.AGAIN, None),
    (
        "machines lost in a row without a checkpoint are enough",
        Facts(sight=Sight.PREEMPTED, fruitless=FRUITLESS_MOVES),
        Action.FAIL,
        ExitCode.RUN_FAILED,
    ),
]


@pytest.mark.parametrize(("facts", "action", "code"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_is_done(facts: Facts, action: Action, code: ExitCode | None) -> None:
    decision = verdict(facts)
    assert decision.action is action
    assert (decision.error.exit_code if decision.error else None) == code


@pytest.mark.parametrize(("sight", "bad"), [(Sight.PREEMPTED, False), (Sight.GONE, True), (Sight.BROKEN, True)])
def test_only_a_machine_that_failed_is_not_taken_again(sight: Sight, bad: bool) -> None:
    assert verdict(Facts(sight=sight)).bad_machine is bad


def test_a_crash_is_remembered_to_be_told_from_the_next() -> None:
    assert verdict(ended(1, step=7)).crash == Crash(exit_code=1, step=7)
    assert verdict(Facts(run=RunStatus(Phase.LOST, step=7))).crash != Crash(exit_code=1, step=7)


def test_an_error_of_the_budget_says_how_to_go_on() -> None:
    error = verdict(ended(75, stopping="it has used its 2 hours", way_back="gptops run demo --resume demo-1")).error
    assert error is not None
    assert error.what == "the job was ended: it has used its 2 hours"
    assert error.hint.endswith("gptops run demo --resume demo-1")


def test_a_machine_that_cannot_be_used_is_given_up_a_few_times() -> None:
    assert given_up("unfit", DAMAGED, 0).action is Action.MOVE
    assert given_up("unfit", DAMAGED, FRUITLESS_MOVES).error is DAMAGED
