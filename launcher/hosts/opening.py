"""Open a host: record the intent, create it, wait until it is really there, set it up.

    intend → create → record → SSH answers, key pinned → GPUs counted → open → setup.sh

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
from launcher.commands import hosts as commands
from launcher.crash import crashpoint
from launcher.errors import GptopsError, HostUnfit, ProviderError, SetupFailed, Unreachable
from launcher.hosts.closing import end_instance
from launcher.hosts.planning import HostPlan
from launcher.hosts.setup import SetupInputs, run_setup
from launcher.lock import hold
from launcher.paths import StatePaths
from launcher.providers.base import CreateRequest, Instance, Provider, Status, Wanted
from launcher.remote.host import Host
from launcher.remote.keys import ensure_key, fingerprint, public_line
from launcher.remote.pinning import pin, pinned_key, shown_key
from launcher.remote.ssh import SshTransport, host_of
from launcher.remote.transport import Connect, Transport

ATTEMPT_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 5.0
TELL_EVERY_SECONDS = 10.0


@dataclass(frozen=True)
class Opener:
    """Opens hosts at one provider; `say` gets a line for each step that is done."""

    provider: Provider
    ledger: Ledger
    state: StatePaths
    clock: Clock
    say: Callable[[str], None]
    connect: Connect | None = None
    """How a host is reached, where not over SSH."""

    def open(self, plan: HostPlan, setup: SetupInputs | None) -> InstanceRow:
        """The host, ready; not set up where `setup` is None. Whatever fails, the machine is ended before the error."""
        with hold(self.state.host_lock(plan.name), f"gptops up --name {plan.name}", self.clock):
            row = self._intended(plan)
            try:
                return self._opened(plan, row, setup)
            except BaseException as error:
                self._undo(row, error)
                raise

    def _intended(self, plan: HostPlan) -> InstanceRow:
        ensure_key(self.state.private_key)
        row = self.ledger.intend_instance(
            label=plan.label,
            name=plan.name,
            provider=self.provider.name,
            project=plan.project,
            price_per_hour=plan.offer.price_per_hour,
            gpus=plan.offer.gpus,
            gpu_name=plan.offer.gpu_name,
        )
        audit(self.state.audit_log, self.clock, "intend", name=plan.name, provider=row.provider, label=plan.label)
        crashpoint("up:intended")
        return row

    def _opened(self, plan: HostPlan, row: InstanceRow, setup: SetupInputs | None) -> InstanceRow:
        began = self.clock.monotonic()
        key = public_line(self.state.private_key)
        request = CreateRequest(plan.label, plan.image, plan.wanted.disk_gib, key)
        instance = self.provider.create(plan.offer, request)
        crashpoint("up:created")
        row = self.ledger.mark_instance(
            row.label, InstanceState.INTENDED, instance_id=instance.instance_id, price_per_hour=instance.price_per_hour
        )
        audit(self.state.audit_log, self.clock, "created", name=row.name, instance_id=instance.instance_id)
        self._done("created", began)
        crashpoint("up:recorded")
        transport = self._reached(row, plan.offer.ready_within_seconds)
        try:
            return self._made_ready(plan, row, transport, setup)
        finally:
            transport.close()

    def _reached(self, row: InstanceRow, within_seconds: float) -> Transport:
        """A transport over which a command has been answered."""
        began = self.clock.monotonic()
        waiting = _Waiting(self, row, within_seconds)
        transport = waiting.until_it_answers()
        self._done(f"SSH answers at {transport.host.addresses[0]}", began)
        return transport

    def _made_ready(
        self, plan: HostPlan, row: InstanceRow, transport: Transport, setup: SetupInputs | None
    ) -> InstanceRow:
        if plan.wanted.gpus:
            began = self.clock.monotonic()
            names = require_gpus(transport, plan.wanted)
            self._done(f"{len(names)} GPUs: {names[0]}", began)
        crashpoint("up:ready")
        address = str(transport.host.addresses[0])
        row = self.ledger.mark_instance(row.label, InstanceState.OPEN, address=address)
        audit(self.state.audit_log, self.clock, "open", name=row.name, address=address)
        crashpoint("up:open")
        if setup is not None:
            self._set_up(plan, transport, setup)
        return row

    def _set_up(self, plan: HostPlan, transport: Transport, setup: SetupInputs) -> None:
        began = self.clock.monotonic()
        try:
            run_setup(transport, setup, gpus=plan.wanted.gpus, say=self.say)
        except SetupFailed as error:
            # The machine, with its log, is about to end: the hint must not lead there.
            hint = "correct `setup` in jobs.yaml, then gptops up again"
            raise SetupFailed(error.what, why=error.why, hint=hint) from error
        self._done("set up", began)

    def transport_to(self, host: Host) -> Transport:
        """A connection; the caller closes it."""
        if self.connect is not None:
            return self.connect(host)
        return SshTransport(host, self.clock, control_sockets=self.state.control_sockets)

    def _undo(self, row: InstanceRow, error: BaseException) -> None:
        """End the machine after a failure; where even that fails, say what may still be open and how to end it."""
        self.say(f"opening `{row.name}` failed; ending it")
        try:
            end_instance(self.ledger.instance(row.label), self.provider, self.ledger, self.state, self.clock)
        except GptopsError as left:
            bills = f" and bill ${row.price_per_hour:.2f} an hour" if row.price_per_hour else ""
            raise ProviderError(
                f"`{row.name}` may still be open{bills}",
                why=f"{error or type(error).__name__}; then {left.what}: {left.why}",
                hint=f"gptops down {row.name} --discard",
            ) from error
        self.say(f"`{row.name}` is gone: nothing is left open")

    def _done(self, what: str, began: float) -> None:
        self.say(f"✓ {what} ({self.clock.monotonic() - began:.1f} s)")


class _Waiting:
    """Until one machine answers: what was seen last, and when it was last spoken of."""

    def __init__(self, opener: Opener, row: InstanceRow, patience_seconds: float) -> None:
        self._opener = opener
        self._row = row
        self._clock = opener.clock
        self._patience_seconds = patience_seconds
        self._deadline = self._clock.monotonic() + patience_seconds
        self._told = self._clock.monotonic()
        self._seen = "nothing seen of it yet"

    def until_it_answers(self) -> Transport:
        pause = FIRST_PAUSE_SECONDS
        while True:
            transport = self._attempt(self._instance())
            if transport is not None:
                return transport
            if self._clock.monotonic() >= self._deadline:
                raise Unreachable(
                    f"`{self._row.name}` did not answer in {self._patience_seconds:.0f} s",
                    why=self._seen,
                    hint="gptops up, perhaps at another --provider; it is ended, nothing bills",
                )
            self._tell()
            self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _instance(self) -> Instance:
        assert self._row.instance_id is not None
        instance = self._opener.provider.get(self._row.instance_id)
        if instance is None:
            raise ProviderError(f"`{self._row.name}` vanished while it was being opened", hint="gptops up")
        if instance.status in (Status.FAILED, Status.STOPPED):
            raise ProviderError(
                f"`{self._row.name}` did not start",
                why=f"`{self._row.provider}` says {instance.status.value}: {instance.detail or 'no reason given'}",
            )
        return instance

    def _attempt(self, instance: Instance) -> Transport | None:
        """A transport that has been answered, or None when it is too early. A refusal is an error."""
        self._seen = f"`{self._row.provider}` says {instance.status.value} {instance.detail}".rstrip()
        if not instance.addresses or instance.status is not Status.RUNNING:
            return None
        host = host_of(self._row, instance, self._opener.state)
        transport = self._opener.transport_to(host)
        try:
            self._pin(host, instance)
            transport.run(commands.answer(), timeout_seconds=ATTEMPT_SECONDS)
        except Unreachable as error:
            transport.close()
            self._seen = f"{error.what}: {error.why}"
            return None
        return transport

    def _pin(self, host: Host, instance: Instance) -> None:
        """Pin what the provider knows, else what the machine shows now, for this first time only."""
        if pinned_key(host) is None:
            key = instance.host_key or shown_key(host.addresses[0], timeout_seconds=ATTEMPT_SECONDS)
            pin(host, key)
            origin = "the provider" if instance.host_key else "first contact"
            audit(self._opener.state.audit_log, self._clock, "pin", name=host.name, key=fingerprint(key), origin=origin)
            if instance.host_key is None:
                self._opener.say(f"pinned {fingerprint(key)}, as shown at first contact")

    def _tell(self) -> None:
        if self._clock.monotonic() - self._told >= TELL_EVERY_SECONDS:
            self._told = self._clock.monotonic()
            self._opener.say(f"waiting for `{self._row.name}`: {self._seen}")


def require_gpus(transport: Transport, wanted: Wanted) -> list[str]:
    """The models of the GPUs that are really there. Raises HostUnfit where they are not those that were asked for."""
    answer = transport.run(commands.gpu_names())
    name = transport.host.name
    if answer.exit_code != 0:
        why = (answer.stderr or answer.stdout).strip().splitlines()
        raise HostUnfit(f"`{name}` shows no GPUs", why=why[0] if why else "nvidia-smi failed")
    models = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    fitting = [m for m in models if not wanted.gpu_names or any(n.lower() in m.lower() for n in wanted.gpu_names)]
    if len(fitting) < wanted.gpus:
        asked = f"{wanted.gpus} x {' or '.join(wanted.gpu_names) or 'any GPU'}"
        raise HostUnfit(
            f"`{name}` has not the GPUs that were asked for", why=f"asked: {asked}; there: {_counted(models)}"
        )
    return models


def _counted(models: list[str]) -> str:
    return ", ".join(f"{models.count(model)} x {model}" for model in dict.fromkeys(models)) or "none"
