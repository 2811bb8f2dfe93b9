"""The way of an errand, from the first offer to the last checkpoint at home. Read `carry_out`, then the steps.

    RENT ─▶ CHECK ─▶ TRAIN ─▶ WATCH ─▶ LEAVE ─▶ over
     ▲                 ▲        │        │
     │                 └────────┤ crashed: start again
     └──────────────────────────┴────────┘ machine lost, or the next job

Each step does its part and returns the errand with the next one; the errand is on
the disk before that begins. So a step that was killed is done again, and finds by
the ledger, the provider and the host how far it had come.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from launcher.books.ledger import InstanceRow
from launcher.crash import crashpoint
from launcher.errors import (
    Busy,
    GptopsError,
    HostRefused,
    HostUnfit,
    LocalFault,
    NotFound,
    PreflightFailed,
    ProviderError,
    StillOpen,
    Unreachable,
)
from launcher.managed import machines, telling, training, turns
from launcher.managed.errand import Errand, Step, read, save
from launcher.managed.looking import looking
from launcher.managed.outside import Outside
from launcher.managed.patience import patiently
from launcher.managed.verdict import Action, Facts, Stopped, given_up, verdict

REACH_SECONDS = 300.0
"""How long a machine that has just been rented may be out of reach before it is given up."""
MACHINE_FAULTS = (Unreachable, HostRefused, HostUnfit, PreflightFailed, NotFound, ProviderError)
"""What another machine may not have."""
NEEDS_A_PERSON = (LocalFault, Busy, StillOpen)
"""What is wrong on this computer, or bills and cannot be ended: all stays as it is, and the same command goes on."""


def carry_out(errand: Errand, outside: Outside, *, only_start: bool = False) -> Errand:
    """Until it is over; with `only_start` until its run has begun. Raises what needs a person; then call it again."""
    while not errand.is_over:
        errand = save(outside.ledger, STEPS[errand.step](errand, outside))
        crashpoint(f"run:{errand.step.value}")
        if only_start and errand.step is Step.WATCH:
            break
    return errand


def rent(errand: Errand, outside: Outside) -> Errand:
    """A machine, recorded as ours."""
    if errand.job_began is None:
        errand = save(outside.ledger, errand.now(job_began=outside.clock.now()))
    try:
        row = machines.take(errand, outside)
    except NEEDS_A_PERSON:
        raise
    except GptopsError as error:
        return turns.failed(errand, outside, error)
    crashpoint("run:rented")
    return taken(errand.now(label=row.label), outside)


def taken(errand: Errand, outside: Outside) -> Errand:
    """With every machine of the group in its books. What a group that was open already has cost is not the job's."""
    assert errand.job_began is not None
    rows = outside.machines(errand)
    older = [row for row in rows if row.created_at < errand.job_began and row.label not in errand.labels]
    before = errand.spent_before + sum(outside.spent_on(row.label) for row in older)
    return errand.now(spent_before=before).with_machines([row.label for row in rows])


def check(errand: Errand, outside: Outside) -> Errand:
    """`test-remote`."""

    def examine(row: InstanceRow) -> Errand:
        machines.look_over(row, outside)
        return errand.now(step=Step.TRAIN)

    return on_machine(errand, outside, examine)


def train(errand: Errand, outside: Outside) -> Errand:
    """The run that is meant: found, started again, or begun from the newest checkpoint at home."""

    def begin(row: InstanceRow) -> Errand:
        with closing(machines.reached(row, outside)) as transport:
            status = training.begun(errand, row, outside, transport)
            if status is not None and (status.alive or status.attempt >= errand.attempt):
                return errand.now(step=Step.WATCH)
            # What ran on several nodes begins anew on those that answer: its folder is on machines that may be gone.
            in_place = outside.job(errand).resources.nodes == 1 or outside.is_login_node(row)
            if status is not None and in_place and training.can_go_on(errand, outside, transport):
                training.start_again(errand, transport)
                return errand.now(step=Step.WATCH)
            machines.guard(row, errand, outside, transport)
            meant = save(outside.ledger, errand.with_run(training.new_run(errand, outside)))
            training.start(meant, row, outside, transport)
            return meant.now(step=Step.WATCH)

    return on_machine(errand, outside, begin)


def watch(errand: Errand, outside: Outside) -> Errand:
    """Look, bring home, decide; until something else than waiting is to be done."""
    try:
        outside.machine(errand)
    except Stopped as error:
        return turns.failed(errand, outside, error)
    with looking(errand, outside) as look:
        while True:
            facts = look.look(errand)
            decision = verdict(facts)
            telling.show(errand, facts, outside)
            if decision.action is Action.STOP:
                errand = save(outside.ledger, errand.now(stopping=decision.why))
                telling.budget(errand, outside, decision.why)
                look.stop()
            elif decision.action is not Action.WAIT:
                return turns.turn(errand, outside, decision, facts)
            else:
                look.wait(outside.job(errand).sync.every_seconds)


def leave(errand: Errand, outside: Outside) -> Errand:
    """End the machine, unless the job wants to keep it; then on to the next one, or over."""
    if errand.ending is None or outside.job(errand).on_finish == "destroy" or errand.lost:
        machines.end(errand, outside)
    over = errand.ending is not None
    errand = errand.now(label="", lost=False, step=Step.WATCH if over else Step.RENT)
    if over:
        telling.end(errand, outside)
    return errand


STEPS: dict[Step, Callable[[Errand, Outside], Errand]] = {
    Step.RENT: rent,
    Step.CHECK: check,
    Step.TRAIN: train,
    Step.WATCH: watch,
    Step.LEAVE: leave,
}


def on_machine(errand: Errand, outside: Outside, act: Callable[[InstanceRow], Errand]) -> Errand:
    """Do something on the machine at work. What another machine may not have, and does not pass, gives this one up."""
    row = outside.ledger.instance(errand.label)
    try:
        outside.machine(errand)
        return patiently(lambda: act(row), outside.clock, REACH_SECONDS, outside.talk.notice)
    except NEEDS_A_PERSON:
        raise
    except MACHINE_FAULTS as error:
        errand = read(outside.ledger.errand(errand.errand_id))  # `act` may have come further than we know
        if outside.is_login_node(row):
            return on_cluster(errand, outside, error)
        decision = given_up(f"{error.what}: {error.why}", error, errand.fruitless)
        return turns.turn(errand, outside, decision, Facts())
    except GptopsError as error:
        errand = read(outside.ledger.errand(errand.errand_id))
        return turns.failed(errand.now(lost=True), outside, error)


def on_cluster(errand: Errand, outside: Outside, error: GptopsError) -> Errand:
    """There is no other one to go to. While it does not answer all stays as it is, and the same command goes on."""
    if isinstance(error, (Unreachable, ProviderError)):
        raise error
    return turns.failed(errand, outside, error)
