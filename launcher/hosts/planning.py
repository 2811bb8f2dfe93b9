"""Which machine would be opened, and what it would cost: everything before the money.

A plan asks the provider what it offers and touches nothing.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from launcher.errors import ProviderError, UsageError
from launcher.providers.base import Offer, Provider, Wanted

MOST_LETTERS = 40


@dataclass(frozen=True)
class HostPlan:
    """One offer, taken in thought."""

    name: str
    label: str
    project: str
    offer: Offer
    wanted: Wanted
    image: str

    @property
    def cost(self) -> str:
        """For people."""
        price = self.offer.price_per_hour
        return f"${price:.2f} an hour, ${24 * price:.2f} a day" if price else "$0: nobody bills this machine"


def plan_host(
    provider: Provider,
    wanted: Wanted,
    *,
    project: str,
    image: str,
    name: str | None = None,
    offer_id: str | None = None,
) -> HostPlan:
    """The cheapest machine that fits, or the one called `offer_id`. Raises ProviderError where there is none."""
    offer = _cheapest(provider, wanted, offer_id)
    unique = uuid.uuid4().hex[:12]
    own = f"{provider.name}-{unique[:4]}" if provider.name != "ssh" else _plain(offer.offer_id)
    return HostPlan(checked_name(name or own), f"gptops:{project}:{unique}", project, offer, wanted, image)


def checked_name(name: str) -> str:
    """A host's name stands in paths and in an ssh_config, so it is plain."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or len(name) > MOST_LETTERS:
        raise UsageError(
            f"`{name}` cannot be the name of a host",
            why=f"a-z, 0-9 and `-` are allowed, {MOST_LETTERS} at most",
            hint=f"--name {_plain(name)}",
        )
    return name


def _cheapest(provider: Provider, wanted: Wanted, offer_id: str | None) -> Offer:
    offers = [offer for offer in provider.offers(wanted) if offer_id in (None, offer.offer_id)]
    limit = wanted.max_price_per_hour
    affordable = [offer for offer in offers if limit is None or offer.price_per_hour <= limit]
    if affordable:
        return min(affordable, key=lambda offer: offer.price_per_hour)
    if offers:
        cheapest = min(offers, key=lambda offer: offer.price_per_hour)
        raise ProviderError(
            f"`{provider.name}` has nothing for at most ${limit:.2f} an hour",
            why=f"the cheapest that fits: {cheapest.description} at ${cheapest.price_per_hour:.2f}",
            hint=f"--max-price {cheapest.price_per_hour:.2f}",
        )
    raise ProviderError(
        f"`{provider.name}` has no machine with {described(wanted)}",
        why=f"asked for `{offer_id}`" if offer_id else "nothing that it offers now fits",
        hint="ask for less with --gpus and --gpu, or take another --provider",
    )


def described(wanted: Wanted) -> str:
    """`8 GPUs (H100 or A100), 20 GiB of disk`."""
    models = f" ({' or '.join(wanted.gpu_names)})" if wanted.gpu_names else ""
    gpus = f"{wanted.gpus} GPU{'s' if wanted.gpus != 1 else ''}{models}"
    return f"{gpus}, {wanted.disk_gib} GiB of free disk" if wanted.disk_gib else gpus


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MOST_LETTERS].strip("-") or "host"
