"""Open a host: record the intent, create it, wait until it is really there, set it up.

    intend → create → record → SSH answers, key pinned → GPUs, driver → open → setup.sh

Killed at any point, the ledger still has the intent with its label, and the next
`gptops up` or `down` ends what exists under it (closing.py). An error or Ctrl-C on
the way ends the machine at once, and says so, or says what may still be open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from launcher.books.audit import audit
from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.clock import Clock
from launcher.crash import crashpoint
from launcher.errors import GptopsError, HostUnfit, OfferGone, RateLimited, SetupFailed, StillOpen
from launcher.hosts.answering import Waiting
from launcher.hosts.closing import end_instance
from launcher.hosts.creating import create_or_adopt
from launcher.hosts.gpus_there import require_driver, require_gpus
from launcher.hosts.planning import HostPlan
from launcher.hosts.setup import SetupInputs, run_setup
from launcher.hosts.steps import Lines, Steps
from launcher.lock import hold
from launcher.paths import StatePaths
from launcher.providers.base import Provider
from launcher.remote.host import Host
from launcher.remote.keys import ensure_key, public_line
from launcher.remote.ssh import SshTransport
from launcher.remote.ssh_config import write_ssh_config
from launcher.remote.transport import Connect, Transport


class SetupUnfit(HostUnfit):
    """setup.sh found that the machine lacks something. The image's fault as often as the machine's."""


Guard = Callable[[InstanceRow, Transport], InstanceRow]


@dataclass(frozen=True)
class Opener:
    """Opens hosts at one provider. `steps` is told each one; without it `say` gets a line for each."""

    provider: Provider
    ledger: Ledger
    state: StatePaths
    clock: Clock
    say: Callable[[str], None]
    connect: Connect | None = None
    """How a host is reached, where not over SSH."""
    steps: Steps | None = None
    guard: Guard | None = None
    """Sets the dead-man's switch of a machine that is open, before anything is installed there."""
    check: Callable[[], None] | None = None
    """Asked while a machine is waited for, and before it is called open; raises where nobody wants it any more."""

    def open(self, plan: HostPlan, setup: SetupInputs | None, *, patience_seconds: float | None = None) -> InstanceRow:
        """The host, ready; not set up where `setup` is None. Whatever fails, the machine is ended before the error.

        Raises StillOpen where it could not be ended. `patience_seconds` bounds the waiting for SSH, below the offer's
        own bound.
        """
        most = plan.offer.ready_within_seconds
        patience = most if patience_seconds is None else min(most, max(0.0, patience_seconds))
        with hold(self.state.host_lock(plan.name), f"gptops up --name {plan.name}", self.clock):
            row = self.intend(plan)
            try:
                return self.made_ready(plan, self.create(plan, row), setup, patience)
            except BaseException as error:
                self._undo(row, error)
                raise

    def intend(self, plan: HostPlan) -> InstanceRow:
        """The intent, on the disk. The caller holds the lock of its name, from here to the end."""
        ensure_key(self.state.private_key)
        offer = plan.offer
        row = self.ledger.intend_instance(
            label=plan.label,
            name=plan.name,
            provider=self.provider.name,
            project=plan.project,
            price_per_hour=offer.price_per_hour,
            gpus=offer.gpus,
            gpu_name=offer.gpu_name,
            machine_id=offer.machine_id,
            spot=offer.spot,
            disk_per_hour=offer.disk_per_hour,
            upload_usd_per_gb=offer.upload_usd_per_gb,
            download_usd_per_gb=offer.download_usd_per_gb,
            group_name=plan.group_name,
            inside=plan.inside,
        )
        audit(self.state.audit_log, self.clock, "intend", name=plan.name, provider=row.provider, label=plan.label)
        crashpoint("up:intended")
        return row

    def made_ready(self, plan: HostPlan, row: InstanceRow, setup: SetupInputs | None, patience: float) -> InstanceRow:
        """The machine that was created, open. The caller ends it where this raises."""
        waiting = Waiting(
            self.provider, self.ledger, self.state, self.clock, self._told, plan, row, patience, self.transport_to,
            self.check,
        )  # fmt: skip
        transport = waiting.until_it_answers()
        try:
            return self._examined(plan, row, transport, setup)
        finally:
            transport.close()

    def create(self, plan: HostPlan, row: InstanceRow) -> InstanceRow:
        """Ask for the machine of the intent, once; its row, with its id."""
        began = self._begin("created")
        key = public_line(self.state.private_key)

        def named(instance_id: str) -> None:
            self.ledger.mark_instance(row.label, InstanceState.INTENDED, instance_id=instance_id)
            audit(self.state.audit_log, self.clock, "created", name=row.name, instance_id=instance_id)

        create_or_adopt(self.provider, plan, key, self.clock, named=named)
        self._done("created", began)
        crashpoint("up:recorded")
        return self.ledger.instance(row.label)

    def _examined(
        self, plan: HostPlan, row: InstanceRow, transport: Transport, setup: SetupInputs | None
    ) -> InstanceRow:
        if plan.wanted.gpus:
            began = self._begin("GPUs")
            names = require_gpus(transport, plan.wanted)
            require_driver(transport, plan.wanted.min_cuda)
            self._done(f"{len(names)} {'GPUs' if len(names) > 1 else 'GPU'}: {names[0]}", began)
        crashpoint("up:ready")
        if self.check is not None:
            self.check()  # whoever gave it up meanwhile is ending it: its row must not say `open` again
        address = str(transport.host.addresses[0])
        row = self.ledger.mark_instance(row.label, InstanceState.OPEN, address=address)
        write_ssh_config(transport.host, transport.host.addresses[0], self.state.control_sockets)
        audit(self.state.audit_log, self.clock, "open", name=row.name, address=address)
        crashpoint("up:open")
        if self.guard is not None:
            row = self.guard(row, transport)
            crashpoint("up:guarded")
        if setup is not None:
            self._set_up(plan, transport, setup)
        return row

    def _set_up(self, plan: HostPlan, transport: Transport, setup: SetupInputs) -> None:
        began = self._begin("setup")
        try:
            run_setup(transport, setup, gpus=plan.wanted.gpus, say=self._told.line)
        except SetupFailed as error:
            # The machine, with its log, is about to end: the hint must not lead there.
            hint = "correct `setup` in jobs.yaml, then gptops up again"
            raise SetupFailed(error.what, why=error.why, hint=hint) from error
        except HostUnfit as error:
            raise SetupUnfit(error.what, why=error.why, hint=error.hint) from error
        self._done("set up", began)

    def transport_to(self, host: Host) -> Transport:
        """A connection; the caller closes it."""
        if self.connect is not None:
            return self.connect(host)
        return SshTransport(host, self.clock, control_sockets=self.state.control_sockets)

    def _undo(self, row: InstanceRow, error: BaseException) -> None:
        """End the machine after a failure; where even that fails, say what may still be open and how to end it."""
        what = error.what if isinstance(error, GptopsError) else "interrupted"
        self._told.failed(f"{what}: {error.why}" if isinstance(error, GptopsError) and error.why else what)
        self._told.note(f"opening `{row.name}` failed; ending it")
        crashpoint("up:failed")
        try:
            if not (isinstance(error, (OfferGone, RateLimited)) and self._never_was(row)):
                end_instance(self.ledger.instance(row.label), self.provider, self.ledger, self.state, self.clock)
        except GptopsError as left:
            bills = f" and bill ${row.price_per_hour:.2f} an hour" if row.price_per_hour else ""
            page = self.provider.console_url(row.instance_id or "")
            raise StillOpen(
                f"`{row.name}` may still be open{bills}",
                why=f"{error or type(error).__name__}; then {left.what}: {left.why}",
                hint=f"gptops down {row.name} --discard" + (f", or by hand: {page}" if page else ""),
            ) from error
        self._told.note(f"`{row.name}` is gone: nothing is left open")

    def _never_was(self, row: InstanceRow) -> bool:
        """Close the row of a machine that its provider says it did not create, if its list says so too."""
        if self.provider.labelled(row.label):
            return False
        self.ledger.mark_instance(row.label, InstanceState.CLOSED)
        audit(self.state.audit_log, self.clock, "closed", name=row.name, provider=row.provider, label=row.label)
        return True

    @property
    def _told(self) -> Steps:
        return self.steps or Lines(self.say, self.clock)

    def _begin(self, name: str) -> float:
        self._told.begin(name)
        return self.clock.monotonic()

    def _done(self, what: str, began: float) -> None:
        self._told.done(what, self.clock.monotonic() - began)
