"""The contract every provider keeps; tests/launcher/test_provider_contract.py runs against all of them.

A provider translates one API. It asks once and returns: it never waits, retries,
prints or decides. Retrying is a provider that wraps a provider; waiting is
launch's. `create` is the only call that can cost money; `destroy` of what is
already gone is success, and only `get(...) is None` proves an end.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from launcher.remote.host import Address


@dataclass(frozen=True)
class Wanted:
    """What a host must offer."""

    gpus: int = 0
    gpu_names: tuple[str, ...] = ()
    """Any of these; empty means any."""
    disk_gib: int = 0
    max_price_per_hour: float | None = None
    """US dollars for the whole machine."""
    min_reliability: float = 0.0
    spot: bool = False


@dataclass(frozen=True)
class Offer:
    """One machine that could be opened now."""

    provider: str
    offer_id: str
    description: str
    """For people: `8x H100 SXM, Oregon, US` or `this machine`."""
    gpus: int
    gpu_name: str
    price_per_hour: float
    """US dollars; 0 for a machine that nobody bills."""
    ready_within_seconds: float = 900.0
    """When to give up waiting for its sshd. Clouds pull images of many GB first; a machine of your own does not."""


@dataclass(frozen=True)
class CreateRequest:
    """What `create` is told besides the offer."""

    label: str
    """`gptops:<project>:<uuid>`: how an instance is found again after an ambiguous answer."""
    image: str
    disk_gib: int
    public_key: str
    """One OpenSSH line, to be authorised for the login user."""


class Status(enum.Enum):
    """What an instance does, as far as waiting for it is concerned."""

    STARTING = "starting"
    RUNNING = "running"
    """Its sshd may be tried; that it answers is not promised."""
    STOPPED = "stopped"
    """Exists, may bill for disk, and will not run by itself again."""
    FAILED = "failed"
    """Will never become ready."""


@dataclass(frozen=True)
class Instance:
    """What is billed."""

    instance_id: str
    """The provider's own id, unique within the provider."""
    label: str
    status: Status
    addresses: tuple[Address, ...]
    """Empty until known. Direct before proxy."""
    price_per_hour: float
    host_key: str | None = None
    """`ssh-ed25519 AAAA…` where the provider can tell it out of band; else it is pinned at first contact."""
    identity_file: str | None = None
    """The user's own private key for a static machine; None means gptops' key."""
    detail: str = ""
    """The provider's own words about the status."""


class Provider(Protocol):
    """Five calls. All raise launcher.errors.ProviderError where the API refuses or answers nonsense."""

    @property
    def name(self) -> str:
        """The word in jobs.yaml: `local`, `ssh`, `vast`."""
        ...

    def offers(self, wanted: Wanted) -> list[Offer]:
        """Machines that fit, cheapest first. Empty where none does."""
        ...

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        """Open the machine. Called once per label; the caller has written the label to the ledger before."""
        ...

    def get(self, instance_id: str) -> Instance | None:
        """The instance as it is now; None when it does not exist (any more)."""
        ...

    def labelled(self, prefix: str) -> list[Instance]:
        """All existing instances whose label starts with `prefix`, whoever created them."""
        ...

    def destroy(self, instance_id: str) -> None:
        """End the machine and everything that runs on it. Already gone is success; proof is `get(...) is None`."""
        ...
