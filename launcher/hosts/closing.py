"""End a machine, and believe it only when the provider knows it no more.

    mark closing → destroy → ask until it is absent → forget pin and connection → mark closed

Stopped at any point, the same call goes on from the label. Whether it *may* end
is not asked here: that is last_look.py.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable

from launcher.books.audit import audit
from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunState
from launcher.clock import Clock
from launcher.crash import crashpoint
from launcher.errors import Busy, GptopsError, LocalFault, ProviderError
from launcher.lock import hold
from launcher.paths import StatePaths
from launcher.providers.base import Provider
from launcher.providers.by_name import open_provider
from launcher.remote.host import Host
from launcher.remote.ssh import end_master

PROOF_SECONDS = 120.0
"""How long a provider may take to let go of a machine."""
POLL_SECONDS = 2.0


def end_instance(row: InstanceRow, provider: Provider, ledger: Ledger, state: StatePaths, clock: Clock) -> InstanceRow:
    """Destroy whatever bears the row's label, prove it gone, and close the row. Already gone is success."""
    ledger.mark_instance(row.label, InstanceState.CLOSING)
    crashpoint("down:closing")
    ids = {instance.instance_id for instance in provider.labelled(row.label)} | ({row.instance_id} - {None})
    for instance_id in sorted(filter(None, ids)):
        audit(state.audit_log, clock, "destroy", name=row.name, provider=row.provider, instance_id=instance_id)
        provider.destroy(instance_id)
    crashpoint("down:destroyed")
    _prove_absence(row, provider, sorted(filter(None, ids)), clock)
    _forget(row, state)
    crashpoint("down:forgotten")
    for run in ledger.runs(instance_label=row.label):
        if run.state is not RunState.ENDED:
            ledger.mark_run(run.run_id, RunState.ENDED)
    closed = ledger.mark_instance(row.label, InstanceState.CLOSED)
    audit(state.audit_log, clock, "closed", name=row.name, provider=row.provider, label=row.label)
    return closed


def _prove_absence(row: InstanceRow, provider: Provider, ids: list[str], clock: Clock) -> None:
    deadline = clock.monotonic() + PROOF_SECONDS
    while left := [instance_id for instance_id in ids if provider.get(instance_id) is not None]:
        if clock.monotonic() >= deadline:
            bills = f" and bill ${row.price_per_hour:.2f} an hour" if row.price_per_hour else ""
            raise ProviderError(
                f"`{row.name}` may still exist{bills}",
                why=f"`{row.provider}` still lists {', '.join(left)} {PROOF_SECONDS:.0f} s after it was told to end it",
                hint=f"gptops down {row.name} --discard",
            )
        clock.sleep(POLL_SECONDS)


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
    for row in ledger.instances(InstanceState.INTENDED, InstanceState.CLOSING):
        try:
            with hold(state.host_lock(row.name), "ending what an interrupted gptops left", clock):
                _finish(row, ledger, state, clock, say)
        except Busy:
            continue
        except GptopsError as error:
            say(f"`{row.name}` may still be open: {error.what} ({error.why}); end it: gptops down {row.name} --discard")


def _finish(row: InstanceRow, ledger: Ledger, state: StatePaths, clock: Clock, say: Callable[[str], None]) -> None:
    now = ledger.instance(row.label)
    if now.state in (InstanceState.INTENDED, InstanceState.CLOSING):
        end_instance(now, open_provider(now.provider, state), ledger, state, clock)
        say(f"ended `{now.name}`, which an interrupted gptops had left {row.state.value}")
