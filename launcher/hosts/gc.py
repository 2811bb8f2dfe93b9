"""Find what bills and should not, and what the ledger believes in and is gone; mend both.

Each provider's own list, by our label, is held against the ledger. Nobody's
machine is guessed at: one that no intent of this computer explains may be another
computer's, and is shown, not ended, unless that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from launcher.books.audit import audit
from launcher.books.ledger import InstanceRow, InstanceState, Ledger, NetworkRow
from launcher.clock import Clock
from launcher.crash import crashpoint
from launcher.errors import Busy, GptopsError, StillOpen
from launcher.hosts.closing import bills_on, by_hand_at, end_instance, make_absent
from launcher.hosts.metering import note_price
from launcher.hosts.networks import close_network, is_half_open
from launcher.lock import hold
from launcher.paths import StatePaths
from launcher.providers.api_keys import NoKey
from launcher.providers.base import Instance, Provider
from launcher.providers.by_name import open_networks
from launcher.providers.networks import PREFIX, network_name

LABELS = "gptops:"
"""What every label of ours begins with."""


@dataclass(frozen=True)
class Found:
    """One thing that is not as it should be."""

    provider: str
    name: str
    """Its name here, or its label where nobody here knows it."""
    label: str
    instance_id: str | None
    price_per_hour: float
    why: str
    row: InstanceRow | None = None
    network: NetworkRow | None = None
    """It is no machine, but the private network of a group, and holds none."""


@dataclass
class Survey:
    """What was found. The first three are mended with consent, `gone` without: there is nothing to lose."""

    interrupted: list[Found] = field(default_factory=list)
    """The ledger says opening or ending; a gptops died over it."""
    leaked: list[Found] = field(default_factory=list)
    """The ledger says closed, and it exists."""
    unknown: list[Found] = field(default_factory=list)
    """It bears a label of gptops that no intent here explains: another computer's, or a lost ledger's."""
    gone: list[Found] = field(default_factory=list)
    """The ledger says open, and there is nothing."""
    kept: list[InstanceRow] = field(default_factory=list)
    """Open, there, and wanted."""
    busy: list[InstanceRow] = field(default_factory=list)
    """Another gptops works on it right now."""
    unasked: list[tuple[str, GptopsError]] = field(default_factory=list)
    """Providers that could not be asked, and may bill for what the ledger has open there."""


@dataclass
class Collected:
    """What was mended, and what was not."""

    ended: list[Found] = field(default_factory=list)
    closed: list[Found] = field(default_factory=list)
    failed: list[tuple[Found, GptopsError]] = field(default_factory=list)


@dataclass(frozen=True)
class Collector:
    """Looks, and mends. `open_provider` gives the provider behind a word."""

    ledger: Ledger
    state: StatePaths
    clock: Clock
    say: Callable[[str], None]
    open_provider: Callable[[str], Provider]

    def survey(self, providers: Sequence[str]) -> Survey:
        """Ask every provider; one that refuses or is down does not stop the others."""
        found = Survey()
        for name in providers:
            open_there = [row for row in self.ledger.instances() if row.provider == name]
            try:
                self._survey_one(self.open_provider(name), found)
                self._survey_networks(name, found)
            except GptopsError as error:
                if isinstance(error, NoKey) and not open_there:
                    self.say(f"`{name}` was not asked: {error.what}")
                else:
                    found.unasked.append((name, error))
        return found

    def collect(self, found: Survey, *, unknown_too: bool = False) -> Collected:
        """End what should not be there, close what is gone. One that fails does not stop the others."""
        done = Collected()
        for each in found.gone:
            self._try(each, done, done.closed)
        for each in [*found.interrupted, *found.leaked, *(found.unknown if unknown_too else [])]:
            self._try(each, done, done.ended)
        return done

    def _survey_one(self, provider: Provider, found: Survey) -> None:
        listed = {instance.instance_id: instance for instance in provider.labelled(LABELS)}
        rows = [row for row in self.ledger.instances(*InstanceState) if row.provider == provider.name]
        crashpoint("gc:listed")
        explained = set()
        for row in rows:
            mine = _of(row, provider, list(listed.values()))
            explained |= {each.instance_id for each in mine}
            if row.state is not InstanceState.CLOSED:
                self._judge(row, provider, mine, found)
            elif mine:
                found.leaked += [_found(row, each, "the ledger has it closed") for each in mine]
        for instance in listed.values():
            if instance.instance_id not in explained:
                found.unknown.append(_stranger(provider, instance))

    def _survey_networks(self, provider: str, found: Survey) -> None:
        """Those without machines. Not asked for where none was ever made: the key may not be allowed to."""
        rows = [row for row in self.ledger.networks(*InstanceState) if row.provider == provider]
        if not rows:
            return
        there = {network.name for network in open_networks(provider, self.clock).named(PREFIX)}
        for row in rows:
            if row.state is InstanceState.CLOSED:
                if network_name(row.label) in there:
                    found.leaked.append(_network(row, "the ledger has it closed"))
            elif not self.ledger.group(row.group_name) and not self._is_busy(row.group_name):
                found.interrupted.append(_network(row, f"a gptops left it {row.state.value}, without a machine"))

    def _judge(self, row: InstanceRow, provider: Provider, mine: list[Instance], found: Survey) -> None:
        if self._is_busy(row.name):
            found.busy.append(row)
        elif row.state is not InstanceState.OPEN:
            found.interrupted.append(_found(row, mine[0] if mine else None, f"a gptops left it {row.state.value}"))
        elif is_half_open(row, self.ledger):
            found.interrupted.append(_found(row, mine[0] if mine else None, "a gptops left its group half opened"))
        else:
            # A list may be behind, and a label may have been changed by hand: only a look at it is a proof.
            there = mine[0] if mine else provider.get(row.instance_id) if row.instance_id else None
            if there is None:
                found.gone.append(_found(row, None, f"`{provider.name}` knows nothing of it"))
            else:
                note_price(row, there, self.ledger)
                found.kept.append(self.ledger.instance(row.label))

    def _is_busy(self, name: str) -> bool:
        try:
            with hold(self.state.host_lock(name), "gptops gc", self.clock):
                return False
        except Busy:
            return True

    def _try(self, each: Found, done: Collected, mended: list[Found]) -> None:
        try:
            name = each.row.name if each.row else each.network.group_name if each.network else "gc"
            with hold(self.state.host_lock(name), "gptops gc", self.clock):
                self._mend(each)
        except GptopsError as error:
            done.failed.append((each, error))
        else:
            mended.append(each)
        crashpoint("gc:mended")

    def _mend(self, each: Found) -> None:
        if each.network is not None:
            networks = open_networks(each.provider, self.clock)
            close_network(each.network, networks, self.ledger, self.state, self.clock)
            return
        provider = self.open_provider(each.provider)
        row = self.ledger.instance(each.row.label) if each.row is not None else None
        if row is not None and each.row is not None and row.state is not each.row.state:
            return  # somebody did it meanwhile
        if row is not None and row.state is not InstanceState.CLOSED:
            end_instance(row, provider, self.ledger, self.state, self.clock)
            return
        audit(self.state.audit_log, self.clock, "destroy", provider=each.provider, instance_id=each.instance_id)
        self._make_absent(each, provider)
        if row is not None:
            # It billed until now, whatever the ledger believed.
            self.ledger.mark_instance(row.label, InstanceState.CLOSED)

    def _make_absent(self, each: Found, provider: Provider) -> None:
        try:
            make_absent(provider, each.label, each.instance_id, self.clock)
        except StillOpen as error:
            raise StillOpen(
                bills_on(each.name, each.price_per_hour),
                why=f"{error.why}; its id at `{each.provider}` is {each.instance_id}",
                hint=f"gptops gc{by_hand_at(provider, each.instance_id)}",
            ) from error


def _of(row: InstanceRow, provider: Provider, listed: list[Instance]) -> list[Instance]:
    """What the row explains. A provider may know a long label only when it is asked for that very one."""
    mine = [each for each in listed if each.label == row.label]
    if mine or row.state is InstanceState.CLOSED:
        return mine
    by_id = [each for each in listed if each.instance_id == row.instance_id]
    return by_id or [each for each in provider.labelled(row.label) if each.label == row.label]


def _found(row: InstanceRow, instance: Instance | None, why: str) -> Found:
    instance_id = instance.instance_id if instance else row.instance_id
    return Found(row.provider, row.name, row.label, instance_id, row.price_per_hour, why, row)


def _network(row: NetworkRow, why: str) -> Found:
    name = f"the network of {row.group_name}"
    return Found(row.provider, name, row.label, row.network_id, 0.0, why, network=row)


def _stranger(provider: Provider, instance: Instance) -> Found:
    why = "no ledger entry of this computer explains it"
    return Found(provider.name, instance.label, instance.label, instance.instance_id, instance.price_per_hour, why)
