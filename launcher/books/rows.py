"""The rows of the ledger, one class a table, as values.

What is written in them is a cache of better truths, except the intents: the
provider knows what bills, the host what runs, MANIFEST.json what is whole.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down"]
"""Of a transfer: to the machine, or home."""


class InstanceState(str, enum.Enum):
    """How far an instance got. `intended` may or may not exist at the provider: only its label can tell."""

    INTENDED = "intended"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class RunState(str, enum.Enum):
    """How far a run got, as we last knew; the truth is the host's `status/`."""

    PREPARING = "preparing"
    RUNNING = "running"
    ENDED = "ended"


class ErrandState(str, enum.Enum):
    """How far a `gptops run` got."""

    GOING = "going"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True)
class InstanceRow:
    """One machine we asked for."""

    label: str
    """`gptops:<project>:<uuid>`, the name the provider knows it by."""
    name: str
    """What the user types; unique among those not closed."""
    provider: str
    project: str
    state: InstanceState
    instance_id: str | None
    """The provider's id; None until `create` has answered."""
    price_per_hour: float
    """GPUs and disk together, as last known; `PriceRow`s have the history."""
    gpus: int
    gpu_name: str
    address: str
    """`user@host:port` as last seen, for people."""
    created_at: float
    closed_at: float | None
    machine_id: str = ""
    """The physical machine, where the market tells."""
    spot: bool = False
    disk_per_hour: float = 0.0
    """The disk's part of the price."""
    upload_usd_per_gb: float = 0.0
    download_usd_per_gb: float = 0.0
    deadline: float | None = None
    """When the machine ends itself, whatever happens to this one; None: nothing on it would."""
    group_name: str = ""
    """The machines it was opened with, to train together; "" for one alone."""
    inside: str = ""
    """Where the others of its group reach it; "": at its own address."""


@dataclass(frozen=True)
class NetworkRow:
    """The private network of a rented group. While it is `intended`, the group is not whole yet, whatever its machines
    are; it is `open` when all of them are ready."""

    label: str
    """`gptops:<project>:<uuid>`; its name at the provider is made of it (launcher.providers.networks)."""
    group_name: str
    """Its machines': unique among those not closed."""
    provider: str
    project: str
    cluster_id: str
    """The physical cluster it lies on."""
    state: InstanceState
    network_id: str | None
    """The provider's id; None until it was seen."""
    created_at: float
    closed_at: float | None


@dataclass(frozen=True)
class RunRow:
    """One execution of a job."""

    run_id: str
    job: str
    host_name: str
    instance_label: str
    project_root: str
    local_root: str
    """Its folder at home."""
    created_at: float
    state: RunState
    exit_code: int | None
    delete_remote: bool
    """What `sync` does unless told otherwise."""
    keep_remote: int
    ended_at: float | None = None
    """When it was first seen to have ended."""


@dataclass(frozen=True)
class NodeRow:
    """One machine of a run on several; a run on one machine has none."""

    run_id: str
    node: int
    """Its place in the run; 0 is the run's own `instance_label`, where the others meet."""
    host_name: str
    instance_label: str


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint that was verified at home."""

    run_id: str
    step: int
    manifest_sha256: str
    bytes: int
    synced_at: float
    pruned_at: float | None
    """When the host's copy was deleted."""


@dataclass(frozen=True)
class PriceRow:
    """What a machine costs from a moment on, until the next row. Its first one counts from the intent."""

    label: str
    since: float
    gpu_per_hour: float
    """0 while it is stopped."""
    disk_per_hour: float


@dataclass(frozen=True)
class TransferRow:
    """Bytes that went over a machine's network because of us."""

    label: str
    at: float
    direction: Direction
    bytes: int


@dataclass(frozen=True)
class BadMachineRow:
    """A physical machine that failed and is not taken again."""

    provider: str
    machine_id: str
    since: float
    reason: str


@dataclass(frozen=True)
class ErrandRow:
    """One `gptops run`: what must go on when it is called again."""

    errand_id: str
    project_root: str
    state: ErrandState
    content: str
    """JSON text; whose fields are launcher.managed's."""
    created_at: float
    ended_at: float | None
