"""Which machine would be opened, under which name, and what it would cost: everything before the money. Pure."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from launcher.errors import UsageError
from launcher.providers.base import CreateRequest, Instance, Offer, Wanted
from launcher.providers.networks import network_name

MOST_LETTERS = 40
QUOTE_SLACK = 1.05
"""A machine may cost this much more than its quote said: markets round, and price the disk anew."""


@dataclass(frozen=True)
class HostPlan:
    """One offer, taken in thought."""

    name: str
    label: str
    project: str
    offer: Offer
    wanted: Wanted
    image: str
    group_name: str = ""
    """The machines it is opened with, to train together."""
    inside: str = ""
    """Where the others of its group reach it."""
    network_label: str = ""
    """Of the private network it is created into; "": none."""

    @property
    def cost(self) -> str:
        """For people."""
        price = self.offer.price_per_hour
        return f"${price:.2f} an hour, ${24 * price:.2f} a day" if price else "$0: nobody bills this machine"

    @property
    def network(self) -> str:
        """The private network's name at the provider; "" for none."""
        return network_name(self.network_label) if self.network_label else ""

    @property
    def is_rented(self) -> bool:
        """Somebody bills it."""
        return self.offer.price_per_hour > 0

    @property
    def bid(self) -> float | None:
        """What a spot machine is asked for with, disk apart: never nothing, which would make it an on-demand one."""
        if not self.offer.spot:
            return None
        return self.wanted.bid or max(0.0, self.offer.price_per_hour - self.offer.disk_per_hour)

    def request(self, public_key: str) -> CreateRequest:
        """What its provider is asked for, beside the offer."""
        return CreateRequest(self.label, self.image, self.wanted.disk_gib, public_key, self.bid, self.network)

    @property
    def highest_price(self) -> float:
        """What it may cost an hour when it is there."""
        allowed = self.offer.price_per_hour * QUOTE_SLACK
        limit = self.wanted.max_price_per_hour
        return allowed if limit is None else min(allowed, limit)

    def difference(self, there: Instance) -> str:
        """What is not as it was planned about the machine that is there; "" where all is."""
        if there.spot != self.offer.spot:
            found, planned = ("spot", "on demand") if there.spot else ("on demand", "spot")
            return f"it is billed as {found}, and was asked for as {planned}"
        if there.price_per_hour > self.highest_price + 1e-6:
            return f"it costs ${there.price_per_hour:.2f}/h, and was offered for ${self.offer.price_per_hour:.2f}/h"
        if there.gpus is not None and there.gpus < self.wanted.gpus:
            return f"it has {there.gpus} GPUs, and {self.wanted.gpus} were asked for"
        return ""


def plan_for(offer: Offer, wanted: Wanted, *, project: str, image: str, name: str | None = None) -> HostPlan:
    """The plan to open this offer, with a label that nobody else has."""
    unique = uuid.uuid4().hex[:12]
    own = f"{offer.provider}-{unique[:4]}" if offer.provider != "ssh" else _plain(offer.offer_id)
    return HostPlan(
        checked_name(name or own.replace("_", "-")), f"gptops:{project}:{unique}", project, offer, wanted, image
    )


def checked_name(name: str) -> str:
    """A host's name stands in paths and in an ssh_config, so it is plain."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or len(name) > MOST_LETTERS:
        raise UsageError(
            f"`{name}` cannot be the name of a host",
            why=f"a-z, 0-9 and `-` are allowed, {MOST_LETTERS} at most",
            hint=f"--name {_plain(name)}",
        )
    return name


def described(wanted: Wanted) -> str:
    """`8 GPUs (H100 or A100), 20 GiB of disk`."""
    models = f" ({' or '.join(wanted.gpu_names)})" if wanted.gpu_names else ""
    gpus = f"{wanted.gpus} GPU{'s' if wanted.gpus != 1 else ''}{models}"
    return f"{gpus}, {wanted.disk_gib} GiB of free disk" if wanted.disk_gib else gpus


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MOST_LETTERS].strip("-") or "host"
