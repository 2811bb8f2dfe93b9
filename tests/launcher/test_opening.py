"""Opening and ending a host: the intent first, the truth by label afterwards, and nothing left over whatever fails."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger
from launcher.clock import Clock, SystemClock
from launcher.errors import (
    Busy,
    GptopsError,
    HostRefused,
    HostUnfit,
    ProviderError,
    SetupFailed,
    Unreachable,
    UsageError,
)
from launcher.hosts.closing import end_instance, finish_leftovers
from launcher.hosts.gpus_there import require_gpus
from launcher.hosts.opening import Opener
from launcher.hosts.planning import HostPlan, plan_for
from launcher.hosts.setup import SetupInputs
from launcher.lock import hold
from launcher.paths import StatePaths, state_paths
from launcher.providers.base import CreateRequest, Instance, Offer, OffSwitch, Provider, Status, Wanted
from launcher.providers.local import LocalProvider
from launcher.providers.ssh import SshProvider
from launcher.providers.static_host import StaticHost
from launcher.remote.host import Address, Host
from launcher.remote.keys import make_key_pair, public_line
from launcher.remote.pinning import pinned_key
from launcher.remote.ssh import SshTransport
from tests.conftest import FakeClock
from tests.launcher.conftest import SshHost, require_programs
from tests.launcher.leftovers import files_of, processes_of

DOUBLES = Path(__file__).resolve().parents[1] / "doubles"


@dataclass
class Site:
    """A state directory, its ledger, and what was said."""

    state: StatePaths
    ledger: Ledger
    clock: Clock
    said: list[str] = field(default_factory=list)

    def opener(self, provider: Provider, **changes: object) -> Opener:
        opener = Opener(provider, self.ledger, self.state, self.clock, self.said.append)
        return replace(opener, **changes)  # type: ignore[arg-type]

    def local(self) -> LocalProvider:
        return LocalProvider(self.state.provider("local"))

    def plan(self, provider: Provider, name: str | None = "box", wanted: Wanted | None = None) -> HostPlan:
        wanted = wanted or Wanted()
        [offer] = provider.offers(wanted)
        return plan_for(offer, wanted, project="tests", image="", name=name)

    def nothing_is_left(self) -> bool:
        return processes_of(self.state) == [] and files_of(self.state) == [] and self.ledger.instances() == []


@pytest.fixture
def site() -> Iterator[Site]:
    require_programs()
    clock, state = SystemClock(), state_paths()
    with Ledger(state.ledger, clock) as ledger:
        site = Site(state, ledger, clock)
        yield site
        for instance in site.local().labelled("gptops:"):
            site.local().destroy(instance.instance_id)


def test_a_host_is_open_pinned_and_known_when_it_answers(site: Site) -> None:
    provider = site.local()
    row = site.opener(provider).open(site.plan(provider), None)
    assert (row.name, row.state) == ("box", InstanceState.OPEN)
    [instance] = provider.labelled(row.label)
    assert row.instance_id == instance.instance_id
    assert row.address == str(instance.addresses[0])
    host = Host("box", instance.addresses, site.state.private_key, site.state.known_hosts("box"))
    assert pinned_key(host) == instance.host_key
    assert any("created" in line for line in site.said)
    assert any("SSH answers" in line for line in site.said)


def test_ending_a_host_leaves_nothing_of_it(site: Site) -> None:
    provider = site.local()
    row = site.opener(provider).open(site.plan(provider), None)
    closed = end_instance(row, provider, site.ledger, site.state, site.clock)
    assert closed.state is InstanceState.CLOSED
    assert site.nothing_is_left()
    end_instance(row, provider, site.ledger, site.state, site.clock)


def test_every_step_that_costs_or_ends_is_in_the_audit_log(site: Site) -> None:
    provider = site.local()
    row = site.opener(provider).open(site.plan(provider), None)
    end_instance(row, provider, site.ledger, site.state, site.clock)
    events = [json.loads(line)["event"] for line in site.state.audit_log.read_text().splitlines()]
    assert events == ["intend", "created", "pin", "open", "ending", "closed"]


class Wrapped:
    """The local provider, with one thing that goes wrong. A provider by hand, not a mock of one."""

    name = "local"
    off_switch = OffSwitch.LOCAL

    def __init__(self, inner: LocalProvider) -> None:
        self.inner = inner

    def offers(self, wanted: Wanted) -> list[Offer]:
        return self.inner.offers(wanted)

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        return self.inner.create(offer, request)

    def authorize(self, instance_id: str, public_key: str) -> None:
        self.inner.authorize(instance_id, public_key)

    def console_url(self, instance_id: str) -> str:
        return ""

    def get(self, instance_id: str) -> Instance | None:
        return self.inner.get(instance_id)

    def labelled(self, prefix: str) -> list[Instance]:
        return self.inner.labelled(prefix)

    def destroy(self, instance_id: str) -> None:
        self.inner.destroy(instance_id)


class CreatesAndFails(Wrapped):
    """Answers with an error although the machine exists, as clouds do."""

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        super().create(offer, request)
        raise ProviderError("500 internal error")


def test_a_machine_created_in_spite_of_an_error_is_found_by_its_label_and_ended(site: Site) -> None:
    provider = CreatesAndFails(site.local())
    with pytest.raises(ProviderError, match="500"):
        site.opener(provider).open(site.plan(provider), None)
    assert site.nothing_is_left()
    assert "`box` is gone: nothing is left open" in site.said


class CannotDestroy(CreatesAndFails):
    """And then refuses to end it."""

    def destroy(self, instance_id: str) -> None:
        raise ProviderError("503 try later")


def test_what_may_still_be_open_is_said_with_the_command_that_ends_it(site: Site) -> None:
    provider = CannotDestroy(site.local())
    with pytest.raises(ProviderError, match="`box` may still be open") as raised:
        site.opener(provider).open(site.plan(provider), None)
    assert "500" in raised.value.why
    assert "503" in raised.value.why
    assert raised.value.hint == "gptops down box --discard"
    assert [row.name for row in site.ledger.instances()] == ["box"]


class NeverGone(Wrapped):
    """Says yes to `destroy` and lists the machine for ever."""

    def destroy(self, instance_id: str) -> None:
        return


def test_an_end_that_cannot_be_proven_is_an_error_and_stays_in_the_ledger(site: Site, fake_clock: FakeClock) -> None:
    provider = NeverGone(site.local())
    row = site.opener(provider).open(site.plan(provider), None)
    with pytest.raises(ProviderError, match="may still exist"):
        end_instance(row, provider, site.ledger, site.state, fake_clock)
    assert fake_clock.slept
    assert [each.state for each in site.ledger.instances()] == [InstanceState.CLOSING]


class NeverAnswers(Wrapped):
    """Runs, it says, at an address where nobody listens."""

    def get(self, instance_id: str) -> Instance | None:
        instance = super().get(instance_id)
        return instance and replace(instance, status=Status.RUNNING, addresses=(Address("127.0.0.1", 1, "root"),))


def test_a_host_that_never_answers_is_given_up_in_time_and_ended(site: Site, fake_clock: FakeClock) -> None:
    provider = NeverAnswers(site.local())
    with pytest.raises(Unreachable, match="did not answer in 30 s") as raised:
        site.opener(provider, clock=fake_clock).open(site.plan(provider), None)
    assert "127.0.0.1:1" in raised.value.why
    assert any(line.startswith("waiting: could not reach") for line in site.said)
    assert site.nothing_is_left()


class Fails(Wrapped):
    def get(self, instance_id: str) -> Instance | None:
        instance = super().get(instance_id)
        return instance and replace(instance, status=Status.FAILED, detail="image not found")


class Vanishes(Wrapped):
    def get(self, instance_id: str) -> Instance | None:
        return None


@pytest.mark.parametrize(("trouble", "says"), [(Fails, "did not start"), (Vanishes, "vanished")])
def test_a_machine_that_fails_at_the_provider_is_ended(site: Site, trouble: type[Wrapped], says: str) -> None:
    provider = trouble(site.local())
    with pytest.raises(ProviderError, match=says):
        site.opener(provider).open(site.plan(provider), None)
    assert site.ledger.instances() == []


class ImpatientClock(FakeClock):
    """Somebody presses Ctrl-C at the first wait."""

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if len(self.slept) == 1:
            raise KeyboardInterrupt


def test_ctrl_c_while_waiting_ends_the_machine(site: Site) -> None:
    provider = NeverAnswers(site.local())
    with pytest.raises(KeyboardInterrupt):
        site.opener(provider, clock=ImpatientClock()).open(site.plan(provider), None)
    assert site.nothing_is_left()


def test_a_name_that_is_open_already_is_refused_before_anything_is_created(site: Site) -> None:
    provider = site.local()
    site.opener(provider).open(site.plan(provider), None)
    with pytest.raises(UsageError, match="open already"):
        site.opener(provider).open(site.plan(provider), None)
    assert len(provider.labelled("gptops:tests:")) == 1


def test_two_at_once_on_one_name_are_told_who_works_on_it(site: Site) -> None:
    provider = site.local()
    with hold(site.state.host_lock("box"), "gptops down box", site.clock), pytest.raises(Busy) as raised:
        site.opener(provider).open(site.plan(provider), None)
    assert "gptops down box" in raised.value.why
    assert site.nothing_is_left()


def test_leftovers_of_a_dead_gptops_are_ended_and_those_of_a_living_one_are_not(site: Site) -> None:
    provider = site.local()
    for name in ("dead", "alive"):
        plan = site.plan(provider, name)
        site.ledger.intend_instance(
            label=plan.label, name=name, provider="local", project="tests", price_per_hour=0, gpus=0, gpu_name=""
        )
        make_key_pair(site.state.root / f"key-{name}", comment="x")
        key = public_line(site.state.root / f"key-{name}")
        provider.create(plan.offer, CreateRequest(plan.label, "", 0, key))
    with hold(site.state.host_lock("alive"), "gptops up --name alive", site.clock):
        finish_leftovers(site.ledger, site.state, site.clock, site.said.append)
    assert [row.name for row in site.ledger.instances()] == ["alive"]
    assert len(provider.labelled("gptops:tests:")) == 1


def test_a_leftover_that_cannot_be_ended_is_said_and_stops_nobody(site: Site) -> None:
    site.ledger.intend_instance(
        label="gptops:tests:x", name="x", provider="ec2", project="tests", price_per_hour=1, gpus=0, gpu_name=""
    )
    finish_leftovers(site.ledger, site.state, site.clock, site.said.append)
    [line] = site.said
    assert line.startswith("`x` may still be open: this gptops has no provider `ec2`")
    assert [row.name for row in site.ledger.instances()] == ["x"]


def test_a_setup_that_fails_ends_the_machine_and_says_why(site: Site) -> None:
    provider = site.local()
    with pytest.raises(SetupFailed) as raised:
        site.opener(provider).open(site.plan(provider), SetupInputs(("torch",), ("no such ! requirement",)))
    assert "jobs.yaml" in raised.value.hint
    assert site.nothing_is_left()


def test_an_intent_of_which_nothing_came_is_closed(site: Site) -> None:
    site.ledger.intend_instance(
        label="gptops:tests:none", name="n", provider="local", project="tests", price_per_hour=0, gpus=0, gpu_name=""
    )
    finish_leftovers(site.ledger, site.state, site.clock, site.said.append)
    assert site.ledger.instances() == []


# GPUs


def a_gpu_host(site: Site, monkeypatch: pytest.MonkeyPatch, models: list[str]) -> LocalProvider:
    monkeypatch.setenv("PATH", f"{DOUBLES}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GPUS", json.dumps([{"name": "NVIDIA H100 80GB HBM3"}] * 8))

    class WithGpus(LocalProvider):
        """What the market promised is one thing; what is in the machine is in `fake_gpus.json`."""

        def create(self, offer: Offer, request: CreateRequest) -> Instance:
            instance = super().create(offer, request)
            home = site.state.provider("local") / instance.instance_id / "home"
            (home / "fake_gpus.json").write_text(json.dumps([{"name": model} for model in models]))
            return instance

    return WithGpus(site.state.provider("local"))


def test_gpus_that_are_really_there_let_the_host_open(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = a_gpu_host(site, monkeypatch, ["NVIDIA H100 80GB HBM3"] * 2)
    row = site.opener(provider).open(site.plan(provider, wanted=Wanted(2, ("H100",))), None)
    assert (row.gpus, row.gpu_name) == (2, "NVIDIA H100 80GB HBM3")
    assert any("2 GPUs: NVIDIA H100" in line for line in site.said)


@pytest.mark.parametrize(
    ("models", "there"),
    [(["NVIDIA H100 80GB HBM3"], "1 x NVIDIA H100"), (["NVIDIA A100"] * 2, "2 x NVIDIA A100"), ([], "none")],
)
def test_gpus_that_are_not_there_end_the_host(
    site: Site, monkeypatch: pytest.MonkeyPatch, models: list[str], there: str
) -> None:
    provider = a_gpu_host(site, monkeypatch, models)
    with pytest.raises(HostUnfit, match="not the GPUs") as raised:
        site.opener(provider).open(site.plan(provider, wanted=Wanted(2, ("H100",))), None)
    assert there in raised.value.why
    assert site.nothing_is_left()


def test_a_host_without_nvidia_smi_shows_no_gpus(transport: SshTransport) -> None:
    with pytest.raises(HostUnfit, match="shows no GPUs"):
        require_gpus(transport, Wanted(gpus=1))


# Plans and static machines


def test_a_plan_opens_nothing_and_says_what_it_costs(site: Site) -> None:
    plan = site.plan(site.local())
    assert plan.cost == "$0: nobody bills this machine"
    assert plan.label.startswith("gptops:tests:")
    assert site.nothing_is_left()


@pytest.mark.parametrize("name", ["../x", "a b", "", "A", "a'; echo foo", "-x", "x" * 41, "$(id)", "a\nb"])
def test_a_name_that_would_be_a_path_or_an_option_is_refused(site: Site, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        site.plan(site.local(), name or " ")


def static(host: SshHost, **changes: object) -> StaticHost:
    return replace(StaticHost(host.address, str(host.state.private_key)), **changes)  # type: ignore[arg-type]


def test_a_static_machine_is_pinned_at_first_contact_and_only_forgotten_at_the_end(
    site: Site, ssh_host: SshHost
) -> None:
    provider = SshProvider(site.state.provider("ssh"), {"My Box": static(ssh_host)})
    plan = site.plan(provider, None)
    row = site.opener(provider).open(plan, None)
    assert row.name == "my-box"
    assert any("as shown at first contact" in line for line in site.said)
    end_instance(row, provider, site.ledger, site.state, site.clock)
    assert site.nothing_is_left()
    transport = ssh_host.transport()
    transport.close()


def test_a_static_machine_that_does_not_know_our_key_is_refused_at_once(site: Site, ssh_host: SshHost) -> None:
    provider = SshProvider(site.state.provider("ssh"), {"box": static(ssh_host, identity_file=None)})
    with pytest.raises(HostRefused, match="refused our key"):
        site.opener(provider).open(site.plan(provider, None), None)
    assert site.nothing_is_left()


def test_a_static_machine_with_a_key_that_is_not_there_says_which(site: Site, ssh_host: SshHost) -> None:
    provider = SshProvider(site.state.provider("ssh"), {"box": static(ssh_host, identity_file="/no/such/key")})
    with pytest.raises(GptopsError, match="there is no key /no/such/key"):
        site.opener(provider).open(site.plan(provider, None), None)
    assert site.nothing_is_left()
