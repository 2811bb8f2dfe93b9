"""End a machine, and believe it only when the provider knows it no more.

    mark closing → destroy → ask until it is absent → forget pin and connection → mark closed

Stopped at any point, the same call goes on from the label. Whether it *may* end
is not asked here: that is last_look.py. A row is never closed without the proof.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from launcher.books.audit import audit
from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunState
from launcher.clock import Clock
from launcher.crash import crashpoint
from launcher.errors import (
    Busy,
    GptopsError,
    KeyRefused,
    LocalFault,
    ProviderDown,
    ProviderError,
    RateLimited,
    StillOpen,
)
from launcher.hosts.networks import close_empty_networks, close_network_of, is_half_open
from launcher.lock import hold
from launcher.paths import StatePaths
from launcher.providers.base import Provider
from launcher.providers.by_name import ends_as, open_provider
from launcher.remote.host import Host
from launcher.remote.ssh import end_master

PROOF_SECONDS = 180.0
"""How long a provider may take to let go of a machine, its limits of requests included."""
FIRST_POLL_SECONDS = 0.05
POLL_SECONDS = 2.0
"""Most ends are seen at once; the others are asked for ever more slowly, up to this."""
ASK_AGAIN_SECONDS = 30.0
"""A machine that is still there after that may not have heard."""
SETTLE_SECONDS = 15.0
"""A request to create that was on its way when gptops was killed arrives within that, or not at all."""


def end_instance(row: InstanceRow, provider: Provider, ledger: Ledger, state: StatePaths, clock: Clock) -> InstanceRow:
    """Destroy whatever bears the row's label, prove it gone, and close the row. Already gone is success.

    The last machine of a rented group takes the group's private network with it. Raises StillOpen, or KeyRefused,
    naming the id, the price and the provider's own page, where that failed.
    """
    ledger.mark_instance(row.label, InstanceState.CLOSING)
    crashpoint("down:closing")
    audit(state.audit_log, clock, "ending", name=row.name, provider=row.provider, instance_id=row.instance_id)
    with telling_what_bills(row, provider):
        _let_it_settle(row, provider, clock)
        ids = make_absent(provider, row.label, row.instance_id, clock)
    _forget(row, state)
    crashpoint("down:forgotten")
    for run in ledger.runs(instance_label=row.label):
        if run.state is not RunState.ENDED:
            ledger.mark_run(run.run_id, RunState.ENDED)
    seen = max(ids, default=None)
    closed = ledger.mark_instance(
        row.label, InstanceState.CLOSED, instance_id=row.instance_id or seen, closed_at=_end_of(row, clock, bool(ids))
    )
    audit(state.audit_log, clock, "closed", name=row.name, provider=row.provider, label=row.label)
    crashpoint("down:closed")
    close_network_of(closed, ledger, state, clock)
    return closed


def _end_of(row: InstanceRow, clock: Clock, was_there: bool) -> float:
    """A machine that was found gone after its own deadline has ended by then: the last moment it can have billed."""
    now = clock.now()
    return min(now, row.deadline) if row.deadline is not None and not was_there else now


def _let_it_settle(row: InstanceRow, provider: Provider, clock: Clock) -> None:
    """Wait until what was asked for a moment ago is there to be found. What nobody bills is there at once."""
    left = row.created_at + SETTLE_SECONDS - clock.now()
    if row.instance_id is None and row.price_per_hour > 0 and left > 0 and not provider.labelled(row.label):
        clock.sleep(min(left, SETTLE_SECONDS))


def make_absent(provider: Provider, label: str, instance_id: str | None, clock: Clock) -> set[str]:
    """Destroy what bears the label or the id, until neither the list nor a look shows it. The ids that were there.

    Raises StillOpen where it is still there, or cannot be asked for, when the time is up; KeyRefused at once.
    """
    deadline = clock.monotonic() + PROOF_SECONDS
    seen: set[str] = set()
    told: dict[str, float] = {}
    pause = FIRST_POLL_SECONDS
    while True:
        try:
            there = _existing(provider, label, instance_id)
            if not there:
                return seen
            seen |= there
            why = f"`{provider.name}` still lists {', '.join(sorted(there))}"
            for each in sorted(there):
                if clock.monotonic() - told.get(each, float("-inf")) >= ASK_AGAIN_SECONDS:
                    provider.destroy(each)
                    told[each] = clock.monotonic()
            crashpoint("down:destroyed")
        except (RateLimited, ProviderDown) as error:
            why = f"{error.what}: {error.why}"
        if clock.monotonic() >= deadline:
            raise StillOpen("it was told to end and is not proven gone", why=f"{why} after {PROOF_SECONDS:.0f} s")
        clock.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS)


def _existing(provider: Provider, label: str, instance_id: str | None) -> set[str]:
    """By its label and by its id: a list may be behind, and a look at one may be blind for a while."""
    listed = {instance.instance_id for instance in provider.labelled(label) if instance.label == label}
    if instance_id is not None and instance_id not in listed and provider.get(instance_id) is not None:
        listed.add(instance_id)
    return listed


@contextmanager
def telling_what_bills(row: InstanceRow, provider: Provider) -> Iterator[None]:
    """Whatever the provider refuses inside the block: say what may go on billing, how much, and how to end it."""
    try:
        yield
    except (ProviderError, KeyRefused) as error:
        what, by_hand = bills_on(row.name, row.price_per_hour), by_hand_at(provider, row.instance_id)
        told = f"{error.what}{f': {error.why}' if error.why else ''}"
        known = f"; its id at `{row.provider}` is {row.instance_id}" if row.instance_id else ""
        if isinstance(error, KeyRefused):
            raise KeyRefused(what, why=f"{told}{known}", hint=f"{error.hint}{by_hand}") from error
        ending = ends_as(row.provider, row.name, row.group_name)
        raise StillOpen(what, why=f"{told}{known}", hint=f"gptops down {ending} --discard{by_hand}") from error


def bills_on(name: str, price_per_hour: float) -> str:
    """That a machine may not have ended, and what that costs."""
    bills = f" and bill ${price_per_hour:.2f} an hour" if price_per_hour else ""
    return f"`{name}` may still exist{bills}"


def by_hand_at(provider: Provider, instance_id: str | None) -> str:
    """Where a person can end it, to be put behind a command."""
    page = provider.console_url(instance_id or "")
    return f"; or by hand: {page}" if page else ""


def _forget(row: InstanceRow, state: StatePaths) -> None:
    folder = state.host(row.name)
    try:
        host = Host(row.name, (), state.private_key, state.known_hosts(row.name))
        end_master(host, state.control_sockets, for_everybody=True)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise LocalFault(
            f"could not remove {folder}", why=str(error), hint=shlex.join(["rm", "-r", str(folder)])
        ) from error


def finish_leftovers(ledger: Ledger, state: StatePaths, clock: Clock, say: Callable[[str], None]) -> None:
    """End what a killed gptops left half opened or half closed. A living one's lock says: hands off."""
    for row in [row for row in ledger.instances() if _is_leftover(row, ledger)]:
        try:
            with hold(state.host_lock(row.name), "ending what an interrupted gptops left", clock):
                _finish(row, ledger, state, clock, say)
        except Busy:
            continue
        except GptopsError as error:
            ending = ends_as(row.provider, row.name, row.group_name)
            say(f"`{row.name}` may still be open: {error.what} ({error.why}); end it: gptops down {ending} --discard")
    try:
        close_empty_networks(ledger, state, clock, say)
    except GptopsError as error:
        say(f"{error.what} ({error.why}): {error.hint}")


def _is_leftover(row: InstanceRow, ledger: Ledger) -> bool:
    return row.state is not InstanceState.OPEN or is_half_open(row, ledger)


def _finish(row: InstanceRow, ledger: Ledger, state: StatePaths, clock: Clock, say: Callable[[str], None]) -> None:
    now = ledger.instance(row.label)
    if now.state is not InstanceState.CLOSED and _is_leftover(now, ledger):
        end_instance(now, open_provider(now.provider, state, clock=clock), ledger, state, clock)
        say(f"ended `{now.name}`, which an interrupted gptops had left {row.state.value}")
