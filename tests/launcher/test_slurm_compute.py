"""What the answers of a cluster's machines mean, row by row, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.hosts.preflight_checks import Check, Verdict
from launcher.nodes.compute_checks import judged, link_check, node_check
from launcher.spec.jobs import JobSpec, Resources

MIB = 1 << 20
LINK = {
    "place": 1,
    "to": "n0",
    "interface": "ib0",
    "way": {"round_trip": 2e-4, "bytes_per_second": {"to": 900 * MIB, "from": 800 * MIB}},
}


def answer(**changes: Any) -> dict[str, Any]:
    whole = {
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "gpus": [["NVIDIA H100", "580.65"]] * 8,
        "clock": {"ahead": 0.6},
    }
    return {**whole, **changes}


TORCH = {"version": "2.13.0", "cuda": "13.0", "device_count": 8}
JOB = JobSpec(stage="pretrain", provider="ssh", resources=Resources(nodes=2, gpus=8))


def rows(answers: dict[str, Any], exit_code: int = 0) -> dict[str, Check]:
    return {check.name: check for check in judged(answers, JOB, exit_code, "Connection refused")}


def test_sound_nodes_pass_in_one_row_each_with_their_link_and_what_they_reduced() -> None:
    reduced = {"backend": "nccl", "world": 16, "right": True, "bus": 40000 * MIB}
    found = rows(
        {"n0.node": answer(link={"place": 0}), "n0.torch": TORCH, "n1.node": answer(link=LINK), "n1.torch": TORCH,
         "all.reduce": reduced}
    )  # fmt: skip
    assert {check.verdict for check in found.values()} == {Verdict.PASS}
    told = "8 x NVIDIA H100, driver 580.65, python 3.11.2, torch 2.13.0 sees 8, the login node's disk, clock +1 s"
    assert found["n0"].found == told
    assert found["link n0 n1"].found == "800 MiB/s, round trip 0.20 ms, over ib0"
    assert found["all-reduce, all"].found == "nccl, 16 processes, 40,000 MiB/s bus bandwidth"
    assert found["alike"].found.startswith("2 x (8 x NVIDIA H100")


@pytest.mark.parametrize(
    ("changes", "torch", "verdict", "todo"),
    [
        ({"gpus": [["NVIDIA H100", "580.65"]] * 4}, None, Verdict.FAIL, "8 were asked for"),
        ({}, {**TORCH, "device_count": 0}, Verdict.FAIL, "torch 2.13.0 sees 0 of 8"),
        ({"versions": {"python": "3.11.2", "torch": ""}}, None, Verdict.WARN, "the environment is not made yet"),
        ({"clock": {"error": "cannot read what the login node writes"}}, TORCH, Verdict.FAIL, "cannot read"),
        ({"clock": {"ahead": -400.0}}, TORCH, Verdict.FAIL, "its clock"),
        ({"error": "OSError: no scontrol"}, None, Verdict.FAIL, ""),
    ],
)
def test_what_is_wrong_with_a_node_is_told_with_what_to_do(
    changes: dict[str, Any], torch: dict[str, Any] | None, verdict: Verdict, todo: str
) -> None:
    check = node_check("n0", answer(**changes), torch, 8)
    assert check.verdict is verdict
    assert check.todo.startswith(todo)


def test_a_node_that_has_not_answered_and_a_reduction_that_failed_are_told_with_the_last_words() -> None:
    found = rows({"n0.node": answer(), "n0.torch": TORCH}, exit_code=1)
    assert found["nodes"].verdict is Verdict.FAIL
    assert found["nodes"].found == "1 of 2 nodes have answered: Connection refused"
    assert found["all-reduce, all"].found == "exit code 1: Connection refused"
    assert (
        rows({"n0.node": answer(), "n1.node": answer(), "all.reduce": {"right": False}})["all-reduce, all"].verdict
        is Verdict.FAIL
    )


def test_unlike_nodes_are_told_by_what_differs() -> None:
    found = rows({"n0.node": answer(), "n1.node": answer(gpus=[["NVIDIA A100", "580.65"]] * 8)})
    assert found["alike"].found == "GPUs: `n0` has 8 x NVIDIA H100, `n1` has 8 x NVIDIA A100"


def test_a_link_that_is_shut_fails_and_a_slow_one_warns() -> None:
    assert link_check("n1", {**LINK, "way": {"error": "cannot reach 10.0.0.1:4242"}}).verdict is Verdict.FAIL
    slow = {"round_trip": 1e-3, "bytes_per_second": {"to": 9 * MIB, "from": 800 * MIB}}
    assert link_check("n1", {**LINK, "way": slow}).verdict is Verdict.WARN
