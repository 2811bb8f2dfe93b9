"""Which offers fit, in which order, and the first reason against each of the others. Pure.

A reason names the value seen and the wish. From the reasons follows what to say when nothing
fits: which condition left out how many, and the one flag that would let the most in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from launcher.errors import NoOffer
from launcher.gpu_models import is_one_of
from launcher.hosts.planning import described
from launcher.mention import mentions_any
from launcher.providers.base import Offer, Wanted
from launcher.renting.ranking import Order, Ranked


@dataclass(frozen=True)
class LeftOut:
    """An offer that does not do."""

    offer: Offer
    reason: str
    """The first one: `$14.30/h, at most $12.00/h was wanted`."""
    condition: str
    """What it failed: `price`."""
    flag: str
    """What on the command line would let it in, where that condition is the only one it fails; else ""."""


@dataclass(frozen=True)
class Choice:
    """All offers, sorted out."""

    fitting: tuple[Ranked, ...]
    """The best first."""
    left_out: tuple[LeftOut, ...]

    @property
    def counted(self) -> dict[str, int]:
        """How many each condition left out, most first."""
        return dict(Counter(each.condition for each in self.left_out).most_common())

    @property
    def words(self) -> str:
        """`12 by price, 3 by CUDA`."""
        return ", ".join(f"{count} by {condition}" for condition, count in self.counted.items())


@dataclass(frozen=True)
class _Condition:
    name: str
    refusal: Callable[[Offer], str | None]
    flag: Callable[[Offer], str]


_BY_WORD = ("GPU model", "region", "earlier failure")
"""Conditions whose flag lets in what it names, and not all that failed them."""
_NAMES = (
    *("kind", "number of GPUs", "GPU model", "disk", "CUDA"),
    *("earlier failure", "region", "reliability", "bid", "price"),
)
"""All conditions, in the order in which they are told: what the machine is, then what the wish is choosy about."""


def choose(
    offers: Iterable[Offer], wanted: Wanted, *, bad: Mapping[str, str] | None = None, order: Order | None = None
) -> Choice:
    """`bad`: machines that failed before, with the reason. What a provider does not tell is not held against it."""
    conditions, order = _conditions(wanted, bad or {}), order or Order()
    ranked = order.ranked(offers)
    left_out = [found for each in ranked if (found := _left_out(each.offer, conditions))]
    refused = {(each.offer.provider, each.offer.offer_id) for each in left_out}
    fitting = tuple(each for each in ranked if (each.offer.provider, each.offer.offer_id) not in refused)
    return Choice(fitting, tuple(left_out))


def no_offer(choice: Choice, wanted: Wanted, provider: str) -> NoOffer:
    """Nothing fits: what was asked, what was left out by what, and the flag that would let the most in."""
    limit = f" for at most {per_hour(wanted.max_price_per_hour)}" if wanted.max_price_per_hour is not None else ""
    spot = " as spot" if wanted.spot else ""
    seen = len(choice.left_out)
    return NoOffer(
        f"`{provider}` has no machine with {described(wanted)}{spot}{limit}",
        why=f"{seen} on offer; left out: {choice.words}" if seen else "it offers nothing of that kind now",
        hint=_remedy(choice) or "ask for less, or take another --provider; `gptops offers --all` shows every reason",
    )


def per_hour(price: float) -> str:
    """A price, for people: `$2.14/h`."""
    return f"${price:.2f}/h"


def _remedy(choice: Choice) -> str:
    """The flag that lets in the most of those that only one condition keeps out, for the cheapest of them."""
    groups: dict[str, list[LeftOut]] = {}
    for each in choice.left_out:
        if each.flag:
            groups.setdefault(each.flag if each.condition in _BY_WORD else each.condition, []).append(each)
    if not groups:
        return ""
    # Equal numbers: what is choosy goes before what the machine is, for it leaves the machine as it was wished.
    group = max(groups.values(), key=lambda group: (len(group), _NAMES.index(group[0].condition)))
    nearest = min(group, key=lambda each: each.offer.price_per_hour)
    others = f", the cheapest of {len(group)} that only the {nearest.condition} keeps out" if len(group) > 1 else ""
    return f"{nearest.flag} lets in {nearest.offer.description} at {per_hour(nearest.offer.price_per_hour)}{others}"


def _left_out(offer: Offer, conditions: Iterable[_Condition]) -> LeftOut | None:
    failed = [(each, reason) for each in conditions if (reason := each.refusal(offer)) is not None]
    if not failed:
        return None
    first, reason = failed[0]
    return LeftOut(offer, reason, first.name, first.flag(offer) if len(failed) == 1 else "")


def _conditions(wanted: Wanted, bad: Mapping[str, str]) -> tuple[_Condition, ...]:
    return (
        _Condition("kind", lambda offer: _kind(offer, wanted), lambda offer: "--spot" if offer.spot else "--on-demand"),
        _Condition("number of GPUs", lambda offer: _gpus(offer, wanted), lambda offer: f"--gpus {offer.gpus}"),
        _Condition("GPU model", lambda offer: _model(offer, wanted), lambda offer: f"--gpu '{offer.gpu_name}'"),
        _Condition("disk", lambda offer: _disk(offer, wanted), lambda offer: f"--disk {int(offer.disk_gib or 0)}"),
        _Condition("CUDA", lambda offer: _cuda(offer, wanted), lambda offer: ""),
        _Condition("earlier failure", lambda offer: _bad(offer, bad), lambda offer: f"--offer {offer.offer_id}"),
        _Condition(
            "region",
            lambda offer: _region(offer, wanted),
            lambda offer: f"--region '{offer.location}'" * bool(offer.location),
        ),
        _Condition(
            "reliability",
            lambda offer: _reliability(offer, wanted),
            lambda offer: f"--min-reliability {_rounded_down(offer.reliability or 0.0)}",
        ),
        _Condition("bid", lambda offer: _bid(offer, wanted), lambda offer: f"--bid {_up(offer.min_bid or 0.0, 3)}"),
        _Condition(
            "price", lambda offer: _price(offer, wanted), lambda offer: f"--max-price {_up(offer.price_per_hour, 2)}"
        ),
    )


def _kind(offer: Offer, wanted: Wanted) -> str | None:
    if offer.spot == wanted.spot:
        return None
    return "on demand, spot was wanted" if wanted.spot else "spot, on demand was wanted"


def _gpus(offer: Offer, wanted: Wanted) -> str | None:
    return None if offer.gpus >= wanted.gpus else f"{_count(offer.gpus)}, {wanted.gpus} were wanted"


def _model(offer: Offer, wanted: Wanted) -> str | None:
    if not wanted.gpus or not offer.gpu_name or is_one_of(offer.gpu_name, wanted.gpu_names):
        return None
    return f"{offer.gpu_name}, {' or '.join(wanted.gpu_names)} was wanted"


def _disk(offer: Offer, wanted: Wanted) -> str | None:
    if offer.disk_gib is None or offer.disk_gib >= wanted.disk_gib:
        return None
    return f"{offer.disk_gib:.0f} GiB of disk, {wanted.disk_gib} GiB was wanted"


def _cuda(offer: Offer, wanted: Wanted) -> str | None:
    if not wanted.gpus or offer.cuda is None or wanted.min_cuda is None or offer.cuda >= wanted.min_cuda:
        return None
    return f"its driver runs CUDA {offer.cuda:g}, the wheel needs {wanted.min_cuda:g}"


def _bad(offer: Offer, bad: Mapping[str, str]) -> str | None:
    reason = bad.get(offer.machine_id) if offer.machine_id else None
    return None if reason is None else f"it failed before: {reason}"


def _region(offer: Offer, wanted: Wanted) -> str | None:
    if mentions_any(offer.location, wanted.regions):
        return None
    return f"in {offer.location or 'a place it does not tell'}, {' or '.join(wanted.regions)} was wanted"


def _reliability(offer: Offer, wanted: Wanted) -> str | None:
    if offer.reliability is None or offer.reliability >= wanted.min_reliability:
        return None
    return f"reliability {offer.reliability:.3f}, at least {wanted.min_reliability:g} was wanted"


def _bid(offer: Offer, wanted: Wanted) -> str | None:
    if not wanted.spot or wanted.bid is None or offer.min_bid is None or wanted.bid >= offer.min_bid:
        return None
    return f"its lowest bid is {per_hour(offer.min_bid)}, the bid was {per_hour(wanted.bid)}"


def _price(offer: Offer, wanted: Wanted) -> str | None:
    limit = wanted.max_price_per_hour
    if limit is None or offer.price_per_hour <= limit:
        return None
    return f"{per_hour(offer.price_per_hour)}, at most {per_hour(limit)} was wanted"


def _count(gpus: int) -> str:
    return "1 GPU" if gpus == 1 else f"{gpus} GPUs"


def _up(price: float, digits: int) -> str:
    """Rounded, and not below."""
    scale = 10**digits
    return f"{math.ceil(price * scale - 1e-6) / scale:.{digits}f}"


def _rounded_down(share: float) -> str:
    return f"{math.floor(share * 1000) / 1000:g}"
