"""Make the private network of a rented group, and end it after its last machine is proven gone.

    intent (ledger) → create → found in the list → machines … → last machine closed → delete → absent from the list

Like a machine it is known by its label, of which its name is made: whatever was killed in between, the name finds it.
"""

from __future__ import annotations

from collections.abc import Callable

from launcher.books.audit import audit
from launcher.books.ledger import InstanceRow, InstanceState, Ledger, NetworkRow
from launcher.clock import Clock
from launcher.crash import crashpoint
from launcher.errors import (
    Busy,
    KeyRefused,
    MayHaveCreated,
    NeverReady,
    ProviderDown,
    ProviderError,
    RateLimited,
    StillOpen,
)
from launcher.lock import hold
from launcher.paths import StatePaths
from launcher.providers.by_name import open_networks
from launcher.providers.networks import Machines, Network, Networks, network_name

APPEARS_SECONDS = 30.0
"""How long a network that was asked for may stay unseen."""
PROOF_SECONDS = 120.0
"""How long a provider may take to let go of one, its limits of requests included."""
FIRST_PAUSE_SECONDS = 0.05
PAUSE_SECONDS = 3.0
LONGEST_PAUSE_SECONDS = 60.0
TRIES = 5
ASK_AGAIN_SECONDS = 15.0


def make_network(
    row: NetworkRow, networks: Networks, ledger: Ledger, state: StatePaths, clock: Clock, machines: Machines = ()
) -> Network:
    """The network of this row, which is in the ledger. Raises what `create` raised where there is none after it."""
    name = network_name(row.label)
    refused = _asked(row.cluster_id, name, machines, networks, clock)
    crashpoint("up:network_asked")
    found = _appeared(name, networks, clock)
    if found is None:
        raise refused or NeverReady(
            f"`{row.provider}` made the network {name} and does not list it", hint="gptops up", is_the_markets=True
        )
    ledger.mark_network(row.label, InstanceState.INTENDED, network_id=found.network_id)
    audit(state.audit_log, clock, "network", name=name, provider=row.provider, network_id=found.network_id)
    crashpoint("up:network_made")
    return found


def _asked(cluster_id: str, name: str, machines: Machines, networks: Networks, clock: Clock) -> ProviderError | None:
    """Ask once; again only where nothing was done. What kept the answer away, after which its name alone tells."""
    for _ in range(TRIES):
        try:
            networks.create(cluster_id, name, machines)
            return None
        except (ProviderDown, MayHaveCreated) as error:
            return error
        except RateLimited as error:
            refused: ProviderError = error
            clock.sleep(min(LONGEST_PAUSE_SECONDS, error.retry_after_seconds or PAUSE_SECONDS))
    return refused


def _appeared(name: str, networks: Networks, clock: Clock) -> Network | None:
    deadline, pause = clock.monotonic() + APPEARS_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        try:
            found = _exactly(name, networks)
        except (ProviderDown, RateLimited):
            found = []
        if found:
            return found[0]
        if clock.monotonic() >= deadline:
            return None
        clock.sleep(pause)
        pause = min(2 * pause, PAUSE_SECONDS)


def _exactly(name: str, networks: Networks) -> list[Network]:
    return [network for network in networks.named(name) if network.name == name]


def close_network_of(row: InstanceRow, ledger: Ledger, state: StatePaths, clock: Clock) -> None:
    """End the network of a machine that is closed, if that was the last one in it."""
    network = ledger.network_of(row.group_name)
    if network is not None and not ledger.group(row.group_name):
        close_network(network, open_networks(network.provider, clock), ledger, state, clock)


def close_network(row: NetworkRow, networks: Networks, ledger: Ledger, state: StatePaths, clock: Clock) -> None:
    """Delete what bears the row's name, until the list shows it no more. Already gone is success.

    Raises StillOpen, or KeyRefused, saying what is left and that it holds no machine.
    """
    name = network_name(row.label)
    if row.state is not InstanceState.CLOSED:
        ledger.mark_network(row.label, InstanceState.CLOSING)
    crashpoint("down:network_closing")
    left = f"the private network {name} of `{row.group_name}` may still exist"
    hint = "gptops gc; its machines are proven gone"
    try:
        _make_absent(name, networks, clock)
    except KeyRefused as error:
        raise KeyRefused(left, why=f"{error.what}: {error.why}", hint=f"{error.hint}; {hint}") from error
    except ProviderError as error:
        raise StillOpen(left, why=f"{error.what}: {error.why}".removesuffix(": "), hint=hint) from error
    crashpoint("down:network_gone")
    ledger.mark_network(row.label, InstanceState.CLOSED)
    audit(state.audit_log, clock, "network_closed", name=name, provider=row.provider)


def _make_absent(name: str, networks: Networks, clock: Clock) -> None:
    deadline, pause = clock.monotonic() + PROOF_SECONDS, FIRST_PAUSE_SECONDS
    asked_at = float("-inf")
    while True:
        try:
            found = _exactly(name, networks)
            if not found:
                return
            why = f"it is still listed after {PROOF_SECONDS:.0f} s"
            if clock.monotonic() - asked_at >= ASK_AGAIN_SECONDS:
                for network in found:
                    networks.delete(network.network_id)
                asked_at = clock.monotonic()
        except (RateLimited, ProviderDown) as error:
            why = f"{error.what}: {error.why}"
        if clock.monotonic() >= deadline:
            raise ProviderError("it was told to end and is not proven gone", why=why)
        clock.sleep(pause)
        pause = min(2 * pause, PAUSE_SECONDS)


def is_half_open(row: InstanceRow, ledger: Ledger) -> bool:
    """Whether the machine's group never became whole, or is being ended: alone it is of no use."""
    network = ledger.network_of(row.group_name)
    return network is not None and network.state is not InstanceState.OPEN


def close_empty_networks(ledger: Ledger, state: StatePaths, clock: Clock, say: Callable[[str], None]) -> None:
    """End the networks whose machines are all gone and whose end was interrupted."""
    for row in ledger.networks():
        try:
            with hold(state.host_lock(row.group_name), "ending what an interrupted gptops left", clock):
                if ledger.network(row.label).state is InstanceState.CLOSED or ledger.group(row.group_name):
                    continue
                close_network(row, open_networks(row.provider, clock), ledger, state, clock)
        except Busy:
            continue
        say(f"deleted the private network of `{row.group_name}`, which an interrupted gptops had left")
