"""Wait until one machine answers over SSH, or will not: by what its provider says, and by trying.

Each address is tried by itself, direct before proxy, and the first that answers is kept. A
machine that is not what was asked for, or that its provider gives up, ends the waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from launcher.books.audit import audit
from launcher.books.ledger import InstanceRow, Ledger
from launcher.clock import Clock
from launcher.commands import hosts as commands
from launcher.crash import crashpoint
from launcher.errors import LoginRefused, NeverReady, ProviderDown, ProviderError, RateLimited, Unreachable
from launcher.hosts.planning import HostPlan
from launcher.hosts.steps import Steps
from launcher.paths import StatePaths
from launcher.providers.base import Instance, Provider, Status
from launcher.remote.keys import fingerprint, public_line
from launcher.remote.pinning import pin, pinned_key, shown_key
from launcher.remote.ssh import host_of
from launcher.remote.transport import Connect, Transport

ATTEMPT_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 5.0
APPEARS_SECONDS = 60.0
"""A new machine may be missing from the provider's answers this long; after that it is gone."""
SILENT_SECONDS = 60.0
"""How long a provider may have lost sight of a machine that is being opened."""
REFUSED_PAUSE_SECONDS = 15.0
"""Between two logins while our key is refused: OpenSSH 9.8 shuts out who fails faster (PerSourcePenalties)."""
KEY_SECONDS = 300.0
"""How long a provider may take to put our key into a machine that answers already."""

_HOPELESS = {
    Status.FAILED: "did not start",
    Status.STOPPED: "was stopped while it was being opened",
    Status.PREEMPTED: "was taken away while it was being opened: somebody bid more",
}


@dataclass
class Waiting:
    """Until one machine answers: what was seen last, and what the time says."""

    provider: Provider
    ledger: Ledger
    state: StatePaths
    clock: Clock
    steps: Steps
    plan: HostPlan
    row: InstanceRow
    patience_seconds: float
    connect: Connect
    check: Callable[[], None] | None = None
    """Raises where nobody wants the machine any more."""
    _seen: str = field(default="nothing seen of it yet", init=False)
    _was_there: bool = field(default=False, init=False)
    _silent_since: float | None = field(default=None, init=False)
    _authorized: bool = field(default=False, init=False)
    _refused_since: float | None = field(default=None, init=False)
    _price: float | None = field(default=None, init=False)
    _loaded: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._began = self._step_began = self.clock.monotonic()

    def until_it_answers(self) -> Transport:
        """A transport to the address that answered. Raises NeverReady, Unreachable, HostRefused."""
        pause = FIRST_PAUSE_SECONDS
        self.steps.begin("loading")
        while True:
            instance = self._look()
            transport = self._attempt(instance) if instance else None
            if transport is not None:
                self._done(f"SSH answers at {transport.host.addresses[0]}")
                return transport
            if self.clock.monotonic() - self._began >= self.patience_seconds:
                raise Unreachable(
                    f"`{self.row.name}` did not answer in {self.patience_seconds:.0f} s",
                    why=self._seen,
                    hint="gptops up, perhaps at another --provider; it is ended, nothing bills",
                )
            if self.check is not None:
                self.check()
            self.steps.seen(self._seen)
            self.clock.sleep(pause if self._refused_since is None else REFUSED_PAUSE_SECONDS)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _look(self) -> Instance | None:
        """The machine as its provider sees it; None while that cannot be known. Raises NeverReady."""
        assert self.row.instance_id is not None
        try:
            instance = self.provider.get(self.row.instance_id)
        except (RateLimited, ProviderDown) as error:
            self._seen = f"{error.what}: {error.why}"
            return None
        if instance is None:
            patience = APPEARS_SECONDS if self.plan.is_rented else 0.0
            if self._was_there or self.clock.monotonic() - self._began >= patience:
                raise NeverReady(f"`{self.row.name}` vanished while it was being opened", hint="gptops up")
            self._seen = f"`{self.provider.name}` does not list it yet"
            return None
        self._was_there = True
        self._seen = f"`{self.provider.name}` says {instance.status.value} {instance.detail}".rstrip()
        self._refuse(instance)
        self._note_price(instance)
        self._authorize_once(instance)
        return instance

    def _refuse(self, instance: Instance) -> None:
        """Raises NeverReady for what will not become the machine that was planned."""
        now, silent = self.clock.monotonic(), instance.status is Status.SILENT
        self._silent_since = (self._silent_since or now) if silent else None
        what = _HOPELESS.get(instance.status, "")
        if self._silent_since is not None and now - self._silent_since >= SILENT_SECONDS:
            what = f"is not seen by its provider for {SILENT_SECONDS:.0f} s"
        if what:
            raise NeverReady(
                f"`{self.row.name}` {what}",
                why=f"`{self.provider.name}` says {instance.status.value}: {instance.detail or 'no reason given'}",
                hint="gptops up",
                is_the_markets=instance.status is Status.PREEMPTED,
            )
        if self.plan.is_rented and (difference := self.plan.difference(instance)):
            right_gpus = instance.gpus is None or instance.gpus >= self.plan.wanted.gpus
            raise NeverReady(
                f"`{self.row.name}` is not what was offered",
                why=difference,
                hint="gptops up",
                is_the_markets=right_gpus,
            )

    def _note_price(self, instance: Instance) -> None:
        if instance.price_per_hour and instance.price_per_hour != self._price:
            self._price = instance.price_per_hour
            gpu = max(0.0, instance.price_per_hour - instance.disk_per_hour)
            self.ledger.record_price(self.row.label, gpu, instance.disk_per_hour)

    # SSH

    def _attempt(self, instance: Instance) -> Transport | None:
        """A transport that has been answered, or None when it is too early. A refusal is an error."""
        if not instance.addresses or instance.status is not Status.RUNNING:
            return None
        if not self._loaded:
            self._loaded = True
            self._done("running")
            self.steps.begin("SSH")
        seen = []
        for address in instance.addresses:
            transport = self.connect(host_of(self.row, replace(instance, addresses=(address,)), self.state))
            try:
                self._pin(transport, instance)
                transport.run(commands.answer(), timeout_seconds=ATTEMPT_SECONDS)
            except Unreachable as error:
                seen.append(f"{error.what}: {error.why}")
            except LoginRefused as error:
                if self._is_refused_for_good():
                    transport.close()
                    raise
                seen.append(f"{error.what}: {error.why}")
                self._authorize(instance)
            else:
                return transport
            transport.close()
        self._seen = "; ".join(seen)
        return None

    def _pin(self, transport: Transport, instance: Instance) -> None:
        """Pin what the provider knows, else what the machine shows now, for this first time only."""
        host = transport.host
        if pinned_key(host) is None:
            key = instance.host_key or shown_key(host.addresses[0], timeout_seconds=ATTEMPT_SECONDS)
            pin(host, key)
            origin = "the provider" if instance.host_key else "first contact"
            audit(self.state.audit_log, self.clock, "pin", name=host.name, key=fingerprint(key), origin=origin)
            if instance.host_key is None:
                self.steps.note(f"pinned {fingerprint(key)}, as shown at first contact")

    # The key

    def _is_refused_for_good(self) -> bool:
        """A machine of one's own has our key or has it not; a rented one gets it from its provider, in time."""
        now = self.clock.monotonic()
        self._refused_since = self._refused_since or now
        return not self.plan.is_rented or now - self._refused_since >= KEY_SECONDS

    def _authorize_once(self, instance: Instance) -> None:
        if not self._authorized:
            self._authorized = True
            self._authorize(instance)
            crashpoint("up:authorized")

    def _authorize(self, instance: Instance) -> None:
        """Ask the provider to let our key in; again while SSH refuses it."""
        try:
            self.provider.authorize(instance.instance_id, public_line(self.state.private_key))
        except ProviderError as error:  # it may not take keys before it runs; whether ours is in, SSH will tell
            self._seen = f"{error.what}: {error.why}"

    def _done(self, what: str) -> None:
        now = self.clock.monotonic()
        self.steps.done(what, now - self._step_began)
        self._step_began = now
