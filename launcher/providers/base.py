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
    bid: float | None = None
    """With `spot`: US dollars an hour for the whole machine, at most. None: a little above the lowest bid."""
    regions: tuple[str, ...] = ()
    """Any of these, as a part of the provider's own word for the place, in any case; empty means anywhere."""
    min_cuda: float | None = None
    """The CUDA version that the wheels to be installed need a driver for: 13.0."""
    nodes: int = 1
    """So many machines that are to train together; everything else is what each of them must offer."""


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
    """US dollars for GPUs and the wanted disk together; 0 for a machine that nobody bills. With `spot`: at its bid."""
    disk_per_hour: float = 0.0
    """The disk's part of the price: what a stopped machine goes on to cost."""
    upload_usd_per_gb: float = 0.0
    """To the machine."""
    download_usd_per_gb: float = 0.0
    """From the machine: what checkpoints cost on their way home."""
    spot: bool = False
    min_bid: float | None = None
    """With `spot`: the lowest bid that gets it now."""
    machine_id: str = ""
    """The physical machine behind the offer, where the market tells; a bad one is not taken twice."""
    location: str = ""
    reliability: float | None = None
    """The market's own figure, 0 to 1; None where there is none."""
    download_mbps: float | None = None
    """Megabit a second from the internet to the machine."""
    upload_mbps: float | None = None
    """Megabit a second from the machine, so of checkpoints on their way home."""
    cuda: float | None = None
    """The newest CUDA its driver runs; None where the provider does not tell."""
    disk_gib: float | None = None
    """The largest disk it could be given; None where that is no limit."""
    gpu_ram_gib: float | None = None
    driver: str = ""
    """Its version, where the market tells."""
    cluster_id: str = ""
    """Machines of one cluster can be given a private network (launcher.providers.networks); "": none. With several
    `nodes` wanted, a market that sells them as a whole alone makes an offer for each of them."""
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
    bid: float | None = None
    """With a spot offer: US dollars an hour for the machine. A spot offer without it must be refused, not created."""
    network: str = ""
    """The name of the private network it is created into; "": none. Where that has made its machines itself
    (launcher.providers.networks), it is looked for by its label."""


class Status(enum.Enum):
    """What an instance does, as far as waiting for it is concerned."""

    STARTING = "starting"
    RUNNING = "running"
    """Its sshd may be tried; that it answers is not promised."""
    STOPPED = "stopped"
    """Exists, may bill for disk, and will not run by itself again."""
    PREEMPTED = "preempted"
    """Stopped because somebody bid more, or the provider took it back; may bill for disk."""
    SILENT = "silent"
    """The provider has lost sight of it. It may come back, elsewhere even."""
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
    spot: bool = False
    machine_id: str = ""
    gpus: int | None = None
    """GPUs it has by the provider's own word; None where it does not say."""
    disk_per_hour: float = 0.0
    """The disk's part of the price."""
    inside: str = ""
    """Its address in its private network, where the provider tells."""


class OffSwitch(enum.Enum):
    """How a program on the machine can end the billing, with nothing but what the provider put there."""

    VAST = "vast"
    """CONTAINER_ID and CONTAINER_API_KEY, which may end this instance and nothing else."""
    RUNPOD = "runpod"
    """RUNPOD_POD_ID and RUNPOD_API_KEY, a key of the pod's own."""
    LOCAL = "local"
    """Ending the host's processes ends it."""
    NONE = "none"
    """It cannot: it ends the training, and the machine bills until `gptops down`."""


class Provider(Protocol):
    """Six calls. All raise launcher.errors.ProviderError or KeyRefused where the API refuses or answers nonsense."""

    @property
    def name(self) -> str:
        """The word in jobs.yaml: `local`, `ssh`, `vast`."""
        ...

    @property
    def off_switch(self) -> OffSwitch:
        """What the dead-man's switch on a machine of this provider can do."""
        ...

    def console_url(self, instance_id: str) -> str:
        """Where a person can see and end the machine by hand; "" where there is no such page. Asks nobody."""
        ...

    def offers(self, wanted: Wanted) -> list[Offer]:
        """Machines of about the wanted kind, in no order: right number of GPUs, spot or not. A provider leaves out
        what it cannot create at all; which of the rest fits is renting.choice's, so that it can say why not."""
        ...

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        """Open the machine. Called once per label; the caller has written the label to the ledger before.

        Raises OfferGone where nothing was created and MayHaveCreated where something may have been, a lost answer
        included. Never tried again with the same label before `labelled` was asked."""
        ...

    def authorize(self, instance_id: str, public_key: str) -> None:
        """Let this key in, where `create` alone does not see to it; elsewhere it does nothing. May be called again."""
        ...

    def get(self, instance_id: str) -> Instance | None:
        """The instance as it is now; None when it does not exist (any more)."""
        ...

    def labelled(self, prefix: str) -> list[Instance]:
        """All existing instances whose label starts with `prefix`, whoever created them."""
        ...

    def destroy(self, instance_id: str) -> None:
        """End the machine and everything that runs on it. Already gone is success; proof is `get(...) is None`.

        Where machines end together alone (by_name.ends_together), the others of its network end with it."""
        ...
