"""A machine of Lambda from its offer to its end, at a double whose machines are real hosts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger
from launcher.clock import SystemClock
from launcher.hosts.closing import end_instance
from launcher.hosts.opening import Opener
from launcher.hosts.planning import plan_for
from launcher.paths import state_paths
from launcher.providers.base import Instance, Wanted
from launcher.providers.lambda_cloud import LambdaCloudProvider, open_lambda_cloud
from tests.doubles.lambda_cloud import LambdaDouble
from tests.doubles.machines import reason_to_skip


@dataclass
class NearLambda:
    """Lambda, with its double's hosts where it says `ubuntu@198.51.100.2:22`: that no test can listen on."""

    cloud: LambdaCloudProvider
    double: LambdaDouble

    def __getattr__(self, name: str) -> object:
        return getattr(self.cloud, name)

    def get(self, instance_id: str) -> Instance | None:
        instance = self.cloud.get(instance_id)
        if instance is None or not instance.addresses:
            return instance
        assert [str(address) for address in instance.addresses] == ["ubuntu@198.51.100.2:22"]
        return replace(instance, addresses=(self.double.machine(instance_id).address,))


def test_a_machine_of_lambda_opens_and_ends_and_bills_nothing_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := reason_to_skip():
        pytest.skip(reason)
    clock, state, wanted, said = SystemClock(), state_paths(), Wanted(gpus=1, gpu_names=("A10",)), list[str]()
    with LambdaDouble(tmp_path / "cloud", with_hosts=True) as double, Ledger(state.ledger, clock) as ledger:
        monkeypatch.setenv("LAMBDA_API_URL", double.url)
        monkeypatch.setenv("LAMBDA_API_KEY", double.key)
        near = NearLambda(open_lambda_cloud(clock), double)
        [offer] = [offer for offer in near.cloud.offers(wanted) if offer.gpu_name.startswith("A10 ")]
        plan = plan_for(offer, wanted, project="p", image="")
        row = Opener(near, ledger, state, clock, said.append).open(plan, None)  # type: ignore[arg-type]
        assert (row.state, row.price_per_hour) == (InstanceState.OPEN, 0.75)
        assert end_instance(row, near, ledger, state, clock).state is InstanceState.CLOSED  # type: ignore[arg-type]
        assert (double.alive, double.meter.per_hour) == ([], 0.0)
        charged = double.dollars()
        double.time.advance(36_000)
        assert 0 < double.dollars() == charged
