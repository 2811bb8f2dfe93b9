"""Verbs about money: cost, gc."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from launcher import console
from launcher.books.budget import Limits
from launcher.books.statement import By
from launcher.cli import completion
from launcher.cli.money_views import (
    COLUMNS,
    FOUND_COLUMNS,
    cost_cells,
    cost_json,
    found_lines,
    gc_json,
    open_words,
    total_cells,
)
from launcher.cli.options import Json, examples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.books.ledger import Ledger
    from launcher.books.spending import Life
    from launcher.books.statement import Line
    from launcher.hosts.gc import Collected, Survey

app = typer.Typer()


@app.command(
    epilog=examples("gptops cost", "gptops cost --by run", "gptops cost --by month --json | jq '.lines[].total_usd'")
)
def cost(
    by: Annotated[By, typer.Option(help="One line for each.")] = By.HOST,
    as_json: Json = False,
) -> None:
    """Show what machines have cost: GPUs, disk and bandwidth apart, and what is open now.

    From this computer's books, and rather too much than too little: the provider's bill is the truth. Days are UTC's.
    """
    from launcher.books.ledger import InstanceState, Ledger
    from launcher.books.spending import lives
    from launcher.books.statement import statement, total
    from launcher.clock import SystemClock
    from launcher.paths import state_paths

    clock = SystemClock()
    with Ledger(state_paths().ledger, clock) as ledger:
        now = clock.now()
        all_lives = lives(ledger, now)
        lines = statement(ledger, all_lives, now, by)
    caps = _caps(lines) if by is By.RUN else {}
    opened = [each for each in all_lives if each.row.state is not InstanceState.CLOSED]
    left = _hours_left(lines, opened, caps)
    if as_json:
        return console.emit_json(cost_json(lines, total(lines), opened, caps, left))
    if not lines:
        return console.say("no machine was ever opened: nothing was spent")
    cells = [cost_cells(line, by, caps[line.run.run_id].max_usd if line.run else None) for line in lines]
    console.table(COLUMNS[by], [*cells, total_cells(total(lines), by)])
    for run_id, hours in left.items():
        console.say(f"`{run_id}` reaches its cap in {hours:.1f} h")
    console.say(open_words(opened))


def _hours_left(lines: Sequence[Line], opened: Sequence[Life], caps: Mapping[str, Limits]) -> dict[str, float]:
    """For each run that goes on and has a cap: when it reaches it, at what its machines cost now."""
    from launcher.books.budget import hours_left

    per_hour = {each.row.label: each.per_hour for each in opened}
    found: dict[str, float] = {}
    for line in lines:
        still = [per_hour[label] for label in line.labels if label in per_hour]
        if line.run is None or line.run.ended_at is not None or not still:
            continue
        price = sum(still)
        left = hours_left(caps.get(line.run.run_id, Limits()), line.spent.total, line.hours, price)
        if left is not None:
            found[line.run.run_id] = left
    return found


def _caps(lines: Sequence[Line]) -> dict[str, Limits]:
    """What each run may cost, by what its job says now; no limit where that cannot be read any more."""
    from pathlib import Path

    from launcher.errors import GptopsError
    from launcher.project import JOBS_FILE
    from launcher.spec.jobs_file import load_jobs

    caps: dict[str, Limits] = {}
    for line in lines:
        if line.run is None:
            continue
        try:
            budget = load_jobs(Path(line.run.project_root) / JOBS_FILE).job(line.run.job).budget
            caps[line.run.run_id] = Limits(budget.max_usd, budget.max_hours)
        except (GptopsError, OSError):
            caps[line.run.run_id] = Limits()
    return caps


@app.command(
    epilog=examples("gptops gc", "gptops gc --yes", "gptops gc --provider vast --yes --json", "gptops gc --all-mine")
)
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="End what should not be there without asking.")] = False,
    provider: Annotated[
        str | None, typer.Option(help="Ask this one alone.", autocompletion=completion.providers)
    ] = None,
    all_mine: Annotated[
        bool,
        typer.Option(
            "--all-mine", help="End also what no entry here explains: another computer's, or a lost ledger's."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Find machines that bill and should not, and entries whose machine is gone; end the ones, close the others.

    Asks each provider for what bears a label of gptops and holds it against this computer's books. Not zero while
    something may still bill.
    """
    from launcher.books.ledger import Ledger
    from launcher.clock import SystemClock
    from launcher.hosts.gc import Collector
    from launcher.paths import state_paths
    from launcher.providers.by_name import open_provider

    state, clock = state_paths(), SystemClock()
    with Ledger(state.ledger, clock) as ledger:
        collector = Collector(ledger, state, clock, console.say, lambda name: open_provider(name, state, clock=clock))
        survey = collector.survey(_providers(provider, ledger))
        _show(survey, all_mine=all_mine, as_json=as_json)
        done = collector.collect(_agreed(survey, all_mine=all_mine, yes=yes), unknown_too=all_mine)
    if as_json:
        console.emit_json(gc_json(survey, done))
    code = _tell(survey, done, as_json=as_json)
    if code:
        raise typer.Exit(code)


def _providers(named: str | None, ledger: Ledger) -> list[str]:
    from launcher.books.ledger import InstanceState
    from launcher.errors import UsageError
    from launcher.providers.by_name import AVAILABLE

    if named is not None and named not in AVAILABLE:
        raise UsageError(f"this gptops has no provider `{named}`", why=f"it has: {', '.join(AVAILABLE)}")
    used = {row.provider for row in ledger.instances(*InstanceState)}
    return [named] if named else [*AVAILABLE, *sorted(used - set(AVAILABLE))]


def _show(survey: Survey, *, all_mine: bool, as_json: bool) -> None:
    lines = found_lines(survey)
    if lines and not as_json:
        console.table(FOUND_COLUMNS, lines)
    if survey.unknown and not all_mine:
        console.say(
            f"{len(survey.unknown)} bear our label and are in no book of this computer; if they are yours: "
            "gptops gc --all-mine"
        )
    for row in survey.busy:
        console.say(f"`{row.name}` is left alone: another gptops works on it")


def _agreed(survey: Survey, *, all_mine: bool, yes: bool) -> Survey:
    """What may be mended: all with consent, else what ends nothing."""
    from launcher.hosts.gc import Survey

    to_end = len(survey.interrupted) + len(survey.leaked) + (len(survey.unknown) if all_mine else 0)
    if yes or not to_end:
        return survey
    if sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm(f"end {to_end} of these?", err=True):
        return survey
    console.say("nothing was ended; `gptops gc --yes` ends them")
    return Survey(gone=survey.gone)


def _tell(survey: Survey, done: Collected, *, as_json: bool) -> int:
    """What was done, and what may still bill; the exit code."""
    from launcher.errors import ExitCode

    for each in done.closed:
        console.say(f"closed `{each.name}`: {each.why}")
    for each in done.ended:
        console.say(f"ended `{each.name}` at `{each.provider}`, and it is gone")
    errors = [error for _, error in [*survey.unasked, *done.failed]]
    for error in [] if as_json else errors:
        console.show_error(error)
    if errors:
        return int(errors[0].exit_code)
    left = len(survey.interrupted) + len(survey.leaked) + len(survey.unknown) - len(done.ended)
    if left:
        console.say(f"{left} may still bill")
        return int(ExitCode.PROVIDER)
    if not done.ended and not done.closed:
        console.say(f"nothing is left over at those that were asked: {len(survey.kept)} open")
    return 0
