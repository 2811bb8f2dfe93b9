"""`gptops up --nodes N`: every machine of a group is opened, set up and alike, or none is open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from launcher.errors import HostUnfit, JobsError, NotFound, Unreachable, UsageError
from launcher.nodes.facts import NodeFacts, differences
from launcher.nodes.request import group_request
from launcher.spec.groups import meeting_port
from launcher.spec.host_request import Flags
from launcher.spec.jobs_file import load_jobs
from tests.launcher.nodes_lab import Lab, make_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from make_lab(tmp_path_factory.mktemp("lab"), 2)


@pytest.fixture(autouse=True)
def _home(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GPTOPS_HOME", str(lab.state.root))
    yield
    for node in lab.nodes.all:
        (node.home / "fake_gpus.json").unlink(missing_ok=True)


def test_unequal_nodes_are_refused_with_the_difference_and_none_stays_open(lab: Lab) -> None:
    lab.nodes[0].set_gpus(["NVIDIA H100 80GB HBM3"] * 2)
    lab.nodes[1].set_gpus(["NVIDIA H100 80GB HBM3"], driver="570.10")

    with pytest.raises(HostUnfit) as raised:
        lab.up(2)

    assert raised.value.what == "the nodes are not alike"
    assert raised.value.why == (
        "GPUs: `box0` has 2 x NVIDIA H100 80GB HBM3, `box1` has 1 x NVIDIA H100 80GB HBM3; "
        "driver: `box0` has 580.65.06, `box1` has 570.10"
    )
    assert lab.open_hosts() == []


def test_a_node_that_does_not_answer_is_named_and_the_others_are_given_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.nodes.request.READY_SECONDS", 1.0)
    monkeypatch.setattr("launcher.hosts.answering.ATTEMPT_SECONDS", 1.0)
    lab.nodes.cut(1)
    try:
        with pytest.raises(Unreachable) as raised:
            lab.up(2)
    finally:
        lab.nodes.heal(1)

    assert "`box1`" in raised.value.what
    assert lab.open_hosts() == []


def test_a_node_whose_peers_have_no_interface_in_common_is_refused(lab: Lab) -> None:
    jobs = lab.root / "jobs.yaml"
    before = jobs.read_text()
    jobs.write_text(before.replace('"box0": {', '"box0": {"inside": "203.0.113.9", '))
    try:
        with pytest.raises(HostUnfit) as raised:
            lab.up(2)
    finally:
        jobs.write_text(before)

    assert raised.value.what == "`box1` has no right interface to the other nodes"
    assert "203.0.113.9" in raised.value.why


def test_one_machine_under_two_names_is_no_group(lab: Lab) -> None:
    jobs, hosts = lab.root / "jobs.yaml", [node.address.host for node in lab.nodes.all]
    before = jobs.read_text()
    jobs.write_text(before.replace(hosts[1], hosts[0]))
    try:
        with pytest.raises(HostUnfit) as raised:
            lab.up(2)
    finally:
        jobs.write_text(before)

    assert f"no way to {hosts[0]}: that is this machine itself" in raised.value.why
    assert lab.open_hosts() == []


def test_a_clock_that_is_minutes_off_is_refused_with_its_nodes_name(lab: Lab) -> None:
    node = lab.nodes[1]
    (node.home / "clock").mkdir()
    (node.home / "clock" / "sitecustomize.py").write_text("import time as t; n = t.time; t.time = lambda: n() + 400\n")
    session = node.folder / "session.sh"
    before = session.read_text()
    node.export("PYTHONPATH", "clock")
    try:
        with pytest.raises(HostUnfit) as raised:
            lab.up(2)
    finally:
        session.write_text(before)

    assert raised.value.why.startswith("clock: `box1` is ")
    assert raised.value.why.endswith(" s ahead of `box0`")
    assert "timedatectl" in raised.value.hint


def test_clocks_that_are_minutes_apart_are_a_difference() -> None:
    alike = [NodeFacts(skew_seconds=-20), NodeFacts(skew_seconds=30)]
    apart = [NodeFacts(skew_seconds=-200), NodeFacts(skew_seconds=30)]
    assert differences(["a", "b"], alike) == []
    assert differences(["a", "b"], apart) == ["clock: `b` is 230 s ahead of `a`"]


def test_versions_are_compared_word_by_word() -> None:
    facts = [NodeFacts(python="3.11.7", torch="2.13.0"), NodeFacts(python="3.11.7", torch="")]
    assert differences(["a", "b"], facts) == ["torch: `a` has 2.13.0, `b` has none"]


def test_what_cannot_be_a_group_is_refused_before_anything_is_touched(lab: Lab) -> None:
    for flags, nodes, error in (
        (Flags(host="nowhere"), 2, NotFound),
        (Flags(host="lan"), 3, JobsError),
        (Flags(provider="vast"), 2, UsageError),
    ):
        with pytest.raises(error):
            group_request(flags, nodes, lab.project)
    assert group_request(Flags(host="box0"), None, lab.project) is None


def test_a_group_is_examined_at_the_port_that_its_jobs_name(lab: Lab) -> None:
    lab.write_jobs("nodes: 2, rendezvous_port: 2022")
    named = load_jobs(lab.root / "jobs.yaml").jobs
    lab.write_jobs()
    left_out = load_jobs(lab.root / "jobs.yaml").jobs
    assert [meeting_port(jobs, group) for jobs in (named, left_out) for group in ("lan", "other")] == [
        2022, None, None, None,
    ]  # fmt: skip
    assert meeting_port({"a": named["two"], "b": left_out["two"]}, "lan") == 2022
