"""Verbs that rent: offers, up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher import console, screen
from launcher.cli import completion
from launcher.cli.consent import agree, show_plan
from launcher.cli.group_renting import up_cluster, up_group
from launcher.cli.host_views import host_json
from launcher.cli.offer_views import choice_json, plan_json, show_offers
from launcher.cli.options import Json, examples
from launcher.errors import ExitCode

if TYPE_CHECKING:
    from launcher.books.ledger import InstanceRow
    from launcher.clock import Clock
    from launcher.hosts.setup import SetupInputs
    from launcher.paths import StatePaths
    from launcher.providers.base import Provider
    from launcher.renting.market import RentRequest
    from launcher.renting.ranking import SortBy
    from launcher.spec.host_request import HostRequest

app = typer.Typer()

Gpus = Annotated[int | None, typer.Option(min=0, help="GPUs it must have.")]
Gpu = Annotated[str | None, typer.Option(help="Their model, in whole words of nvidia-smi's name: H100.")]
MaxPrice = Annotated[float | None, typer.Option(min=0, help="US dollars an hour for the machine, at most.")]
Disk = Annotated[int | None, typer.Option(min=0, help="GiB of disk it must have.")]
Reliability = Annotated[float | None, typer.Option(min=0, max=1, help="The market's own figure, at least: 0.98.")]
Region = Annotated[
    list[str] | None, typer.Option(help="A place, in whole words of the provider's name for it: US. May be repeated.")
]
Spot = Annotated[
    bool | None, typer.Option("--spot/--on-demand", help="Cheaper, and taken away when somebody bids more.")
]
Bid = Annotated[
    float | None,
    typer.Option(
        min=0.001, help="With --spot: US dollars an hour, without the disk; else a little more than the lowest."
    ),
]

# What a verb needs is imported inside it, as in launcher.cli.hosts.


@app.command(
    epilog=examples(
        "gptops offers --gpus 8 --gpu H100 --max-price 20",
        "gptops offers --job pretrain",
        "gptops offers --provider vast --spot --region US --all",
        "gptops offers --job pretrain --json | jq '.offers[0].offer_id'",
    )
)
def offers(
    provider: Annotated[
        str | None,
        typer.Option(
            help="Whose; else the job's, else of all that you have a key for.", autocompletion=completion.providers
        ),
    ] = None,
    job: Annotated[
        str | None,
        typer.Option(
            help="For what this job of jobs.yaml asks for, with what it would cost there.",
            autocompletion=completion.jobs,
        ),
    ] = None,
    gpus: Gpus = None,
    gpu: Gpu = None,
    max_price: MaxPrice = None,
    disk: Disk = None,
    min_reliability: Reliability = None,
    region: Region = None,
    spot: Spot = None,
    bid: Bid = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines that train together, of one cluster: each line is all of them.")
    ] = None,
    sort: Annotated[str, typer.Option(help="cost, price, reliability or bandwidth.")] = "cost",
    everything: Annotated[
        bool, typer.Option("--all", help="Name every offer that was left out, with its reason.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List machines that could be rented now, the cheapest for the job first.

    The cost is an estimate: tokens × FLOPs a token ÷ (peak × expected share of it) × price, disk and the checkpoints'
    way home included. GIB is the memory of one GPU; DOWN and UP are megabits a second. Nothing is opened.
    """
    from launcher.clock import SystemClock
    from launcher.paths import state_paths
    from launcher.project import find_project
    from launcher.renting.choice import no_offer
    from launcher.renting.markets import look_around
    from launcher.spec.host_request import Flags

    flags = Flags(
        provider, None, gpus, gpu, max_price, job, disk, min_reliability, tuple(region or ()), _spot(spot, bid), bid
    )
    found = look_around(flags, find_project(Path.cwd()), state_paths(), SystemClock(), _sort(sort), nodes)
    if as_json:
        console.emit_json(choice_json(found.choice))
    else:
        show_offers(found, everything=everything)
    if not found.choice.fitting:
        if as_json:
            raise typer.Exit(ExitCode.NO_OFFER)
        raise no_offer(found.choice, found.wanted, " or ".join(found.asked))


@app.command(
    epilog=examples(
        "gptops up",
        "gptops up --host root@gpubox:22 --gpus 2",
        "gptops up --job pretrain --dry-run",
        "gptops up --nodes 2 --host pair --gpus 8",
        "gptops up --nodes 2 --provider vast --gpus 8 --gpu H100",
        "gptops up --provider vast --gpus 8 --gpu H100 --max-price 20 --yes",
        "gptops up --provider vast --gpu 'RTX 4090' --spot --bid 0.25",
        "gptops up --json",
    )
)
def up(
    provider: Annotated[
        str | None, typer.Option(help="Who gives the machine: local, ssh, vast, …", autocompletion=completion.providers)
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="A machine of yours: user@name:port, or a name under `hosts` or `groups` in jobs.yaml.",
            autocompletion=completion.own_machines,
        ),
    ] = None,
    job: Annotated[
        str | None, typer.Option(help="Open what this job of jobs.yaml asks for.", autocompletion=completion.jobs)
    ] = None,
    gpus: Gpus = None,
    gpu: Gpu = None,
    max_price: MaxPrice = None,
    disk: Disk = None,
    min_reliability: Reliability = None,
    region: Region = None,
    spot: Spot = None,
    bid: Bid = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Machines that train together: of the group that --host names, or rented, of one cluster of a market; "
            "every other wish is then for each of them.",
        ),
    ] = None,
    offer: Annotated[str | None, typer.Option(help="This offer of `gptops offers`, and no other.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it here.")] = None,
    deadline: Annotated[float, typer.Option(min=1, help="Minutes in which one must be ready.")] = 30.0,
    tries: Annotated[int, typer.Option(min=1, help="Machines that may be tried.")] = 3,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Spend money without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be opened, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Open a machine and make it ready to train.

    Rents the best offer. Waits until SSH answers and the GPUs are really there, then sets it up. A machine that does
    not become ready is ended, remembered as bad, and the next one is taken; whatever fails, nothing is left open.
    """
    from launcher.clock import SystemClock
    from launcher.hosts.setup import setup_inputs
    from launcher.paths import state_paths
    from launcher.project import find_project
    from launcher.providers.by_name import open_provider
    from launcher.renting.asking import rent_request
    from launcher.spec.host_request import Flags, host_request

    state, clock, project = state_paths(), SystemClock(), find_project(Path.cwd())
    kind = _spot(spot, bid)
    flags = Flags(
        provider, host, gpus, gpu, max_price, job, disk, min_reliability, tuple(region or ()), kind, bid, offer
    )
    if nodes != 1 and (host or job or nodes):
        from launcher.nodes.market import cluster_request  # late: pydantic and yaml, where a group may be meant
        from launcher.nodes.request import group_request

        wanted = cluster_request(flags, nodes, project, name=name, deadline_seconds=60 * deadline, tries=tries)
        if wanted is not None:
            return up_cluster(wanted, state, clock, yes=yes, dry_run=dry_run, as_json=as_json)
        group = group_request(flags, nodes, project)
        if group is not None:
            return up_group(group, state, clock, dry_run=dry_run, as_json=as_json)
    asked = host_request(flags, project)
    opened_at = open_provider(asked.provider, state, clock=clock, hosts=asked.static_hosts)
    request = rent_request(asked, project.name, name=name, deadline_seconds=60 * deadline, tries=tries)
    if dry_run:
        return _show_dry_run(opened_at, request, state, as_json=as_json)
    setup = setup_inputs(asked.job.setup if asked.job else None)
    if setup.shell:
        console.say(f"the set-up of `{job}` runs lines in your code; `gptops train {job}` does it after the upload")
    row = _opened(opened_at, request, None if setup.shell else setup, asked, state, clock, yes=yes)
    console.say(f"`{row.name}` is ready at {row.address}; `gptops down {row.name}` {_parting(row)} it")
    if as_json:
        console.emit_json(host_json(row, [], clock.now()))
    else:
        console.emit(row.name)
    return None


def _parting(row: InstanceRow) -> str:
    """What `down` does to it: a machine of the user's own goes on."""
    return "forgets" if row.provider == "ssh" else "ends"


def _opened(
    provider: Provider,
    request: RentRequest,
    setup: SetupInputs | None,
    asked: HostRequest,
    state: StatePaths,
    clock: Clock,
    *,
    yes: bool,
) -> InstanceRow:
    from launcher.books.ledger import Ledger
    from launcher.hosts.closing import finish_leftovers
    from launcher.hosts.deadman import Armer
    from launcher.hosts.steps import Lines
    from launcher.renting.guarding import guard_for
    from launcher.renting.renter import Renter

    with Ledger(state.ledger, clock) as ledger:
        finish_leftovers(ledger, state, clock, console.say)
        lines = Lines(console.say, clock)
        plan = Renter(provider, ledger, state, clock, lines).plan(request)
        show_plan(plan, request)
        agree(plan, Renter(provider, ledger, state, clock, lines), request, yes=yes)
        with screen.checklist() as steps:
            guard = guard_for(asked, request, provider, Armer(ledger, state, clock, (steps or lines).note))
            renter = Renter(provider, ledger, state, clock, steps or lines, guard=guard)
            return renter.rent(request, setup, first=plan)


def _show_dry_run(provider: Provider, request: RentRequest, state: StatePaths, *, as_json: bool) -> None:
    from launcher.clock import SystemClock
    from launcher.renting.market import best
    from launcher.renting.markets import bad_machines
    from launcher.renting.ranking import forecast

    plan = best(provider, request, bad_machines(state, SystemClock(), provider.name))
    show_plan(plan, request)
    if as_json:
        console.emit_json(plan_json(plan, forecast(plan.offer, request.order.work) if request.order.work else None))


def _sort(word: str) -> SortBy:
    from launcher.errors import UsageError
    from launcher.renting.ranking import SortBy

    if word not in {each.value for each in SortBy}:
        raise UsageError(f"offers cannot be sorted by `{word}`", hint=f"--sort {', '.join(SortBy)}")
    return SortBy(word)


def _spot(spot: bool | None, bid: float | None) -> bool | None:
    """A bid says spot."""
    return True if spot is None and bid is not None else spot
