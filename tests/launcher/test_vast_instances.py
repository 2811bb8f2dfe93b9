"""Vast's rows about instances: every status, the ones of tomorrow included, and addresses that are never mixed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import ProviderError
from launcher.providers.base import Status
from launcher.providers.fields import Fields
from launcher.providers.vast_instances import instance_of, status_of

PORTS = {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40123"}, {"HostIp": "::", "HostPort": "40123"}]}
ROW: dict[str, Any] = {
    "id": 12345678,
    "machine_id": 88888,
    "label": "gptops:mvp:6f1c",
    "image_runtype": "ssh ssh_direc ssh_proxy",
    "actual_status": "running",
    "intended_status": "running",
    "cur_state": "running",
    "next_state": "running",
    "status_msg": "success, running pytorch/... \n",
    "ssh_host": "ssh5.vast.ai",
    "ssh_port": 10882,
    "public_ipaddr": "203.0.113.42 ",
    "ports": PORTS,
    "num_gpus": 8,
    "dph_total": 17.93,
    "dph_base": 17.6,
    "is_bid": False,
}
KNOWN = {
    None: Status.STARTING,
    "created": Status.STARTING,
    "loading": Status.STARTING,
    "rebooting": Status.STARTING,
    "scheduling": Status.STARTING,
    "running": Status.RUNNING,
    "stopped": Status.STOPPED,
    "frozen": Status.STOPPED,
    "exited": Status.FAILED,
    "unknown": Status.SILENT,
    "offline": Status.SILENT,
    "hibernating": Status.SILENT,  # invented: whatever comes one day
}


def addresses(**changes: Any) -> list[str]:
    return [str(address) for address in instance_of(ROW | changes).addresses]


def test_a_row_becomes_an_instance() -> None:
    instance = instance_of(ROW)
    assert (instance.instance_id, instance.label, instance.machine_id) == ("12345678", "gptops:mvp:6f1c", "88888")
    assert (instance.status, instance.gpus, instance.spot) == (Status.RUNNING, 8, False)
    assert instance.price_per_hour == 17.93
    assert instance.disk_per_hour == pytest.approx(0.33)
    assert instance_of(ROW | {"storage_total_cost": 0.04}).disk_per_hour == 0.04
    assert instance.detail == "running: success, running pytorch/..."
    assert instance_of(ROW | {"is_bid": True}).spot


@pytest.mark.parametrize(("word", "status"), KNOWN.items())
def test_every_status_has_a_meaning(word: str | None, status: Status) -> None:
    assert instance_of(ROW | {"actual_status": word}).status is status


def test_outbid_is_told_by_three_states_that_all_say_stopped() -> None:
    names = ("cur_state", "intended_status", "next_state")
    for states in itertools.product(("running", "stopped"), repeat=3):
        row = ROW | dict(zip(names, states, strict=True)) | {"actual_status": "exited"}
        expected = Status.PREEMPTED if set(states) == {"stopped"} else Status.FAILED
        assert instance_of(row).status is expected


def test_a_container_that_cannot_be_made_never_starts() -> None:
    message = "Error response from daemon: OCI runtime create failed: ..."
    assert instance_of(ROW | {"actual_status": "created", "status_msg": message}).status is Status.FAILED
    assert instance_of(ROW | {"actual_status": "running", "status_msg": message}).status is Status.RUNNING
    assert instance_of(ROW | {"actual_status": "created", "status_msg": "pulling"}).status is Status.STARTING


_words = st.one_of(st.none(), st.text(), st.integers(), st.sampled_from([str(word) for word in KNOWN]))


@given(st.fixed_dictionaries({name: _words for name in ROW if name.endswith(("status", "state", "msg"))}))
def test_there_is_a_status_for_every_row(row: dict[str, Any]) -> None:
    assert status_of(Fields(row, "a row")) in Status


def test_direct_comes_before_the_proxy_and_each_host_keeps_its_port() -> None:
    assert addresses() == ["root@203.0.113.42:40123", "root@ssh5.vast.ai:10882"]
    assert addresses(ports=None) == ["root@ssh5.vast.ai:10882"]
    assert addresses(public_ipaddr=None) == ["root@ssh5.vast.ai:10882"]
    assert addresses(ssh_host=None) == ["root@203.0.113.42:40123"]
    assert addresses(ssh_port=None) == ["root@203.0.113.42:40123"]
    assert addresses(ssh_port=None, ports={}) == []


def test_with_jupyter_the_proxys_port_is_the_next_one() -> None:
    runtype = "jupyter_direc ssh_direc ssh_proxy"
    assert addresses(image_runtype=runtype) == ["root@203.0.113.42:40123", "root@ssh5.vast.ai:10883"]


@pytest.mark.parametrize(
    "ports",
    [
        [],
        [22],
        "22",
        {"22/tcp": None},
        {"22/tcp": []},
        {"22/tcp": [None]},
        {"22/tcp": [{}]},
        {"22/tcp": [{"HostPort": ""}]},
        {"22/tcp": [{"HostPort": "0"}]},
        {"22/tcp": [{"HostPort": "99999"}]},
        {"22/tcp": [{"HostPort": "²"}]},
        {"22/tcp": {"HostPort": "1"}},
        {"8080/tcp": [{"HostPort": "1"}]},
    ],
)
def test_a_port_map_in_any_other_shape_is_no_direct_address(ports: Any) -> None:
    assert addresses(ports=ports) == ["root@ssh5.vast.ai:10882"]


def test_a_host_that_would_be_an_option_is_no_address() -> None:
    assert addresses(public_ipaddr="-oProxyCommand=id", ssh_host="a b\nHost *") == []


def test_a_row_without_an_id_is_never_passed_over() -> None:
    for row in (None, [], "x", {}, ROW | {"id": None}, ROW | {"id": "x"}, ROW | {"dph_total": "dear"}):
        with pytest.raises(ProviderError):
            instance_of(row)


def test_what_is_not_told_is_not_invented() -> None:
    instance = instance_of({"id": 1})
    assert (instance.label, instance.gpus, instance.addresses) == ("", None, ())
    assert (instance.price_per_hour, instance.disk_per_hour, instance.status) == (0.0, 0.0, Status.STARTING)
