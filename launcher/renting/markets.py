"""What several providers have to offer, in one list: for `gptops offers`, which opens nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from launcher.books.ledger import Ledger
from launcher.clock import Clock
from launcher.errors import GptopsError, KeyRefused, NoOffer, ProviderError
from launcher.paths import StatePaths
from launcher.project import Project
from launcher.providers.base import Wanted
from launcher.providers.by_name import AVAILABLE, NETWORKED, open_provider
from launcher.renting.asking import rent_request
from launcher.renting.choice import Choice
from launcher.renting.clusters import of_clusters
from launcher.renting.market import sorted_out
from launcher.renting.ranking import Order, SortBy
from launcher.spec.host_request import OWN, Flags, HostRequest, host_request
from launcher.spec.together import require_one


@dataclass(frozen=True)
class Markets:
    """What the providers that are meant have answered."""

    wanted: Wanted
    choice: Choice
    asked: tuple[str, ...]
    silent: tuple[GptopsError, ...]
    """Why others are not in the list: no key, no answer."""


def look_around(
    flags: Flags, project: Project, state: StatePaths, clock: Clock, sort: SortBy, nodes: int | None = None
) -> Markets:
    """The offers of the provider that was named, by the command line or the job, or of every market.

    For several `nodes` (none said: the job's) each offer is so many machines of one cluster. Raises what kept the last
    one from answering, where none did, and UsageError where a provider that was named has no such machines.
    """
    choices: dict[str, Choice] = {}
    silent: list[GptopsError] = []
    for asked in _each_provider(flags, project, nodes or 1):
        count = nodes or (asked.job.resources.nodes if asked.job else 1)
        require_one(asked.provider, count)
        request = rent_request(asked, project.name, sort=sort, nodes=count)
        try:
            provider = open_provider(asked.provider, state, clock=clock, hosts=asked.static_hosts)
            choice = sorted_out(provider, request, bad_machines(state, clock, asked.provider))
            choices[asked.provider] = choice if count == 1 else of_clusters(choice, request, asked.provider)
        except (KeyRefused, NoOffer, ProviderError) as error:  # NoOffer: a cloud that has no spot machines at all
            silent.append(error)
    if not choices:
        raise silent[0]
    return Markets(request.wanted, _together(choices, request.order), tuple(choices), tuple(silent))


def bad_machines(state: StatePaths, clock: Clock, provider: str) -> dict[str, str]:
    """Machines that failed before. Looking makes no ledger."""
    if not state.ledger.exists():
        return {}
    with Ledger(state.ledger, clock) as ledger:
        return ledger.bad_machines(provider)


def _each_provider(flags: Flags, project: Project, nodes: int) -> list[HostRequest]:
    if flags.provider is not None or flags.job is not None:
        return [host_request(flags, project)]
    markets = [name for name in AVAILABLE if name not in OWN] if nodes == 1 else NETWORKED
    return [host_request(replace(flags, provider=name), project) for name in markets]


def _together(choices: dict[str, Choice], order: Order) -> Choice:
    fitting = [ranked.offer for choice in choices.values() for ranked in choice.fitting]
    left_out = tuple(each for choice in choices.values() for each in choice.left_out)
    return Choice(order.ranked(fitting), left_out)
