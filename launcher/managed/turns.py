"""What a decision makes of an errand: its next step, and what must be remembered for it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace

from launcher.errors import GptopsError, Unreachable
from launcher.managed import machines, telling, training
from launcher.managed.errand import Ending, Errand, Step
from launcher.managed.outside import Outside
from launcher.managed.verdict import Action, Decision, Facts
from trainer.manifest import step_name


def turn(errand: Errand, outside: Outside, decision: Decision, facts: Facts) -> Errand:
    """The errand after anything but waiting and stopping. Raises where a person is needed."""
    return _AFTER[decision.action](errand, outside, decision, facts)


def finished(errand: Errand, outside: Outside, decision: Decision, facts: Facts) -> Errand:
    """The job is done and at home: the next one, on this machine where it fits."""
    if errand.is_last:
        return errand.over(Ending())
    labels = [row.label for row in outside.machines(errand)]
    following = errand.for_next_job(labels, sum(outside.spent_on(label) for label in labels))
    row = outside.machine(errand)
    if machines.fits(row, outside.job(following), len(labels)):
        return following.now(job_began=outside.clock.now(), step=Step.TRAIN)
    return following.now(step=Step.LEAVE)


def restarted(errand: Errand, outside: Outside, decision: Decision, facts: Facts) -> Errand:
    """The same run once more, where it crashed."""
    outside.talk.notice(f"{decision.why}; starting it again")
    attempt, restarts = (facts.run.attempt if facts.run else 0) + 1, errand.restarts + decision.counts
    return errand.now(step=Step.TRAIN, attempt=attempt, restarts=restarts, crash=decision.crash)


def begun_again(errand: Errand, outside: Outside, decision: Decision, facts: Facts) -> Errand:
    """A new run on the same machine."""
    outside.talk.notice(f"{decision.why}; beginning anew from what is at home")
    return errand.now(step=Step.TRAIN, run_id="", restarts=errand.restarts + decision.counts, crash=decision.crash)


def moved(errand: Errand, outside: Outside, decision: Decision, facts: Facts) -> Errand:
    """Give the machine up, and go on elsewhere. Raises where there is nowhere else."""
    if machines.are_all_there_is(errand, outside):
        return held(errand, outside, replace(decision, error=_nowhere(errand, outside, decision)), facts)
    if decision.bad_machine:
        machines.give_up(outside.ledger.instance(errand.label), decision.why, outside)
    telling.moving(errand, outside, decision.why)
    newest = training.newest_step(errand, outside)
    return errand.now(
        step=Step.LEAVE,
        lost=True,
        run_id="",
        moves=errand.moves + 1,
        fruitless=0 if newest > errand.newest_step else errand.fruitless + 1,
        newest_step=max(newest, errand.newest_step),
    )


def _nowhere(errand: Errand, outside: Outside, decision: Decision) -> GptopsError:
    """About machines of one's own: what is wrong with them, or that none is left."""
    if decision.error is not None and not isinstance(decision.error, Unreachable):
        return decision.error
    newest = training.newest_step(errand, outside)
    home = f"the newest checkpoint at home is `{step_name(newest)}`" if newest >= 0 else "no checkpoint is at home"
    return Unreachable(
        f"`{errand.job}` cannot go on on `{outside.machine(errand).group_name}`, and no other machines are known",
        why=f"{decision.why}; {home}",
        hint=f"gptops run {shlex.join(errand.jobs)}   # as soon as one of them can: it goes on from there",
    )


def gave_up(errand: Errand, outside: Outside, decision: Decision, facts: Facts) -> Errand:
    """The job ends without being done."""
    assert decision.error is not None
    return failed(errand.now(lost=facts.run is None), outside, decision.error)


def held(errand: Errand, outside: Outside, decision: Decision, facts: Facts) -> Errand:
    """Everything stays as it is. The same command goes on from here."""
    assert decision.error is not None
    telling.trouble(errand, outside, decision.error)
    raise decision.error


_AFTER: dict[Action, Callable[[Errand, Outside, Decision, Facts], Errand]] = {
    Action.FINISH: finished,
    Action.RESTART: restarted,
    Action.AGAIN: begun_again,
    Action.MOVE: moved,
    Action.FAIL: gave_up,
    Action.HOLD: held,
}


def failed(errand: Errand, outside: Outside, error: GptopsError) -> Errand:
    """Over, with the words of the error."""
    return errand.over(Ending(exit_code=int(error.exit_code), what=error.what, why=error.why, hint=error.hint))
