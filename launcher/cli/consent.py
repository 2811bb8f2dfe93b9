"""What renting would cost, shown; and whether it may be spent, asked."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from launcher import console
from launcher.cli.offer_views import live_words, plan_words
from launcher.errors import ExitCode

if TYPE_CHECKING:
    from launcher.hosts.planning import HostPlan
    from launcher.renting.market import RentRequest
    from launcher.renting.renter import Renter


def show_plan(plan: HostPlan, request: RentRequest) -> None:
    """The machine, its price, and what the job would cost on it."""
    from launcher.renting.ranking import forecast

    work = request.order.work
    for line in plan_words(plan, forecast(plan.offer, work) if work else None):
        console.say(line)


def agree(plan: HostPlan, renter: Renter, request: RentRequest, *, yes: bool) -> None:
    """Money is spent only by somebody who said so. Raises UsageError where nobody can be asked, OverBudget before."""
    from launcher.errors import UsageError

    if not plan.is_rented:
        return
    renter.require_room(request, plan.offer)
    live = live_words(renter.live(), plan.offer.provider)
    if live:
        console.say(live)
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"this would cost {plan.cost}, and there is nobody to ask",
            why="neither --yes was given, nor is this a terminal",
            hint="the same command with --yes",
        )
    if not typer.confirm("open it?", err=True):
        console.say("nothing was opened")
        raise typer.Exit(ExitCode.INTERRUPTED)
