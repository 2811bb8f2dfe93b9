"""Several machines train as one: met, started, followed, stopped, brought home; and what happens when one is lost."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.books.ledger import RunState
from launcher.hosts.preflight_checks import Asked, Verdict
from launcher.nodes.opening import connected
from launcher.nodes.preflight import NodesPreflight
from launcher.running.upload import remote_code
from tests.launcher.command_line import Finished
from tests.launcher.nodes_lab import Lab, make_lab
from tests.launcher.waiting import wait_until
from trainer import manifest
from trainer.errors import ExitCode

pytestmark = pytest.mark.slow

ENDLESS = ("train.max_steps=1000000", "checkpoint.every_steps=2")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two machines that `gptops up` has opened as a group."""
    for made in make_lab(tmp_path_factory.mktemp("lab"), 2):
        opened = made.gptops("up", "--nodes", "2", "--host", "lan")
        assert (opened.exit_code, opened.stdout) == (0, "box0\nbox1\n"), opened.stderr
        yield made


@pytest.fixture(scope="module")
def trained(lab: Lab) -> Finished:
    """`gptops train two`, to its end."""
    return lab.gptops("train", "two")


def home(lab: Lab, run_id: str) -> Path:
    return lab.root / "runs" / run_id


def test_a_group_is_open_with_its_set_up_done_and_its_addresses_written_down(lab: Lab) -> None:
    assert all(list((node.home / "gptops" / "venvs").glob("*/.gptops-ready")) for node in lab.nodes.all)
    with lab.ledger() as ledger:
        inside = [node.address.host for node in lab.nodes.all]
        rows = sorted(ledger.instances(), key=lambda row: row.name)  # they were opened at once
    assert [(row.group_name, row.inside) for row in rows] == [("lan", each) for each in inside]


def test_two_nodes_train_one_model_to_the_end(lab: Lab, trained: Finished) -> None:
    assert trained.exit_code == 0, trained.stdout + trained.stderr
    assert trained.stdout.count("step 6/6  loss") == 1, "one training, told once"
    assert "2 nodes met at 198.18." in trained.stderr
    assert "over lan0" in trained.stderr


def test_a_run_on_two_nodes_is_one_run_in_the_books_and_in_ps(lab: Lab, trained: Finished) -> None:
    with lab.ledger() as ledger:
        [run] = ledger.runs()
        assert (run.state, run.exit_code) == (RunState.ENDED, 0)
        assert [node.host_name for node in ledger.nodes(run.run_id)] == ["box0", "box1"]
    shown = json.loads(lab.gptops("ps", "--json").stdout)
    words = {row["name"]: row["runs"] for row in shown}
    assert words == {f"box{node}": [f"{run.run_id} (ended, node {node} of 2)"] for node in (0, 1)}


def test_its_checkpoints_come_home_and_then_go_on_every_node(lab: Lab, trained: Finished) -> None:
    synced = lab.gptops("sync", "--json")
    answer = json.loads(synced.stdout)

    assert synced.exit_code == 0, synced.stderr
    assert answer["home"] == answer["pruned"] == [3, 6]
    assert [manifest.verify(path).step for path in manifest.checkpoints(home(lab, answer["run"]) / "checkpoints")] == [
        3,
        6,
    ]
    left = [path for node in lab.nodes.all for path in (node.home / "gptops").glob("*/checkpoints/step_*")]
    assert left == []


def test_parts_on_two_nodes_come_home_as_one_checkpoint_and_a_part_alone_stays(lab: Lab, trained: Finished) -> None:
    with lab.ledger() as ledger:
        [run] = ledger.runs()
    there = [node.home / "gptops" / run.run_id / "checkpoints" for node in lab.nodes.all]
    for number, folder in enumerate(there):
        publish_part(folder, 9, number)
    publish_part(there[1], 12, 1)

    synced = lab.gptops("sync", "--json")
    answer = json.loads(synced.stdout)

    assert synced.exit_code == 0, synced.stderr
    assert [each["step"] for each in answer["synced"]] == [9]
    whole = manifest.verify(home(lab, run.run_id) / "checkpoints" / manifest.step_name(9))
    assert sorted(whole.files) == ["rank0.bin", "rank1.bin"]
    assert [broken["name"] for broken in answer["broken"]] == [manifest.step_name(12)]
    left = [path.name for folder in there for path in manifest.published(folder)]
    assert left == [manifest.step_name(12)], "the parts of what is whole at home have gone from both"
    manifest.remove(there[1] / manifest.step_name(12))


def publish_part(checkpoints: Path, step: int, part: int) -> None:
    """What a node that shares no disk with the others leaves of a sharded checkpoint."""
    building = checkpoints / f"{manifest.step_name(step)}.tmp"
    building.mkdir(parents=True)
    (building / f"rank{part}.bin").write_bytes(f"weights of rank {part} ".encode() * 500)
    files = manifest.settled_files(building)
    manifest.publish_as(building, manifest.Manifest(step, files, part=part, parts=2, save=f"save-{step}"))


def test_each_nodes_log_can_be_read(lab: Lab, trained: Finished) -> None:
    other = lab.gptops("logs", "--node", "1")
    assert other.exit_code == 0, other.stderr
    assert "step 6/6  loss" not in other.stdout, "node 0 tells it"
    nobodys = lab.gptops("logs", "--node", "2")
    assert (nobodys.exit_code, "there is no node 2" in nobodys.stderr) == (4, True)


def test_a_port_that_is_taken_is_said_before_anything_starts(lab: Lab) -> None:
    port = 29555
    program = f"import socket, sys; s = socket.create_server(('', {port})); print(1, flush=True); sys.stdin.read()"
    lab.write_jobs(f"nodes: 2, rendezvous_port: {port}")
    inside, pipe = lab.nodes[0].inside("python3", "-c", program), subprocess.PIPE
    try:
        with subprocess.Popen(inside, stdin=pipe, stdout=pipe) as taker:
            assert taker.stdout is not None
            taker.stdout.readline()
            refused = lab.gptops("train", "two", "--skip-setup")
    finally:
        lab.write_jobs()

    assert refused.exit_code == 7, refused.stderr
    assert "the nodes cannot meet on `box0`" in refused.stderr
    assert f"port {port} is taken" in refused.stderr
    with lab.ledger() as ledger:
        assert all(run.state is RunState.ENDED for run in ledger.runs())
    assert not list((lab.nodes[1].home / "gptops" / "preparing").glob("*"))


def test_the_pairwise_checks_measure_links_and_an_all_reduce(lab: Lab, trained: Finished, tmp_path: Path) -> None:
    with lab.ledger() as ledger:
        rows = ledger.instances()
    with connected(rows, lab.state, lab.clock) as there:
        asked, insides = [Asked(row.name) for row in rows], [row.inside for row in rows]
        code = remote_code(lab.project)
        checks = {
            check.name: check
            for check in NodesPreflight(
                there, insides, asked, code, None, lab.clock, tmp_path, lab.said.append
            ).between()
        }

    assert {name: check.verdict.value for name, check in checks.items() if check.verdict is not Verdict.PASS} == {}
    assert list(checks) == ["alike", "code", "interface", "link box0 box1", "rendezvous", "all-reduce, all"]
    assert "lan0" in checks["interface"].found
    assert "MiB/s" in checks["link box0 box1"].found
    assert checks["all-reduce, all"].found.startswith("gloo, 2 processes, ")
    assert not list(lab.nodes[0].home.glob("gptops/preflight-*"))


def test_code_that_somebody_changed_on_one_node_is_refused_by_name(lab: Lab, trained: Finished) -> None:
    """Of the same size and time, so that rsync does not see it."""
    [file] = lab.nodes[1].home.glob("gptops/uploads/*/corpus.txt")
    before = file.stat()
    changed = file.read_bytes().swapcase()
    file.unlink()
    file.write_bytes(changed)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    refused = lab.gptops("train", "two", "--skip-setup")
    file.unlink()

    assert refused.exit_code == 7, refused.stderr
    assert "the code on `box1` is not the code on `box0`" in refused.stderr


@dataclass(frozen=True)
class Story:
    """What was seen of one run, from its beginning to what went on from it."""

    run_id: str
    ended: Finished
    again: Finished | None = None
    last: Finished | None = None


@pytest.fixture(scope="module")
def without_power(lab: Lab, trained: Finished) -> Story:
    """`gptops run`, of which node 1 loses its power in the middle."""
    with lab.started("run", "long", "--skip-setup", "--skip-test") as running:
        wait_until(lambda: saved(lab, "long-*"), seconds=180, what="a checkpoint on node 0")
        lab.nodes.kill(1)
        stdout, stderr = running.communicate(timeout=300)
    wait_until(lambda: lab.nodes[0].processes() == [], what="nothing of it is left on the node that is there")
    lab.nodes.restart(1)
    return Story("", Finished(running.returncode, stdout, stderr))


@pytest.fixture(scope="module")
def cut_off(lab: Lab) -> Story:
    """The cable of node 0, where they met, is pulled out in the middle and plugged in again; then all go on."""
    run_id = started(lab, "train", "two", *ENDLESS)
    lab.nodes.cut(0)
    told_by_others = lab.gptops("logs", run_id, "-f")
    wait_until(lambda: not trains(lab, 0), seconds=180, what="the node that is cut off gives up too")
    lab.nodes.heal(0)
    told_by_all = lab.gptops("logs", run_id, "-f")
    again = started(lab, "train", "two", "--nodes", "2", "--resume", run_id, *ENDLESS)
    stopped = lab.gptops("stop", again, "--json")
    return Story(run_id, told_by_others, told_by_all, stopped)


def test_a_job_whose_node_loses_its_power_goes_on_with_the_rest_to_its_end(lab: Lab, without_power: Story) -> None:
    done = without_power.ended
    assert done.exit_code == 0, done.stderr
    assert "lost box1; beginning anew from what is at home" in done.stderr
    assert "going on with the rest, box0: 2 were wanted" in done.stderr
    with lab.ledger() as ledger:
        first, second = [run for run in ledger.runs() if run.job == "long"]
        assert (first.exit_code, second.exit_code) == (ExitCode.PEER_LOST, 0)
        assert ([node.host_name for node in ledger.nodes(first.run_id)], ledger.nodes(second.run_id)) == (
            ["box0", "box1"],
            [],
        )


def test_the_curve_over_both_runs_is_one(lab: Lab, without_power: Story) -> None:
    last = max((lab.root / "runs").glob("long-*"), key=lambda path: (path / "train.log").stat().st_mtime)
    steps = [json.loads(line)["step"] for line in (last / "metrics.jsonl").read_text().splitlines()]
    trained = [step for step in steps if step]
    assert sorted(set(trained)) == list(range(1, 301))
    assert manifest.checkpoints(last / "checkpoints")[-1].name == manifest.step_name(300)


def test_when_the_node_where_they_met_is_lost_the_others_tell_how_it_ended(cut_off: Story) -> None:
    assert cut_off.ended.exit_code == 9, cut_off.ended.stderr
    assert f"`{cut_off.run_id}` lost `box0`" in cut_off.ended.stderr


def test_a_link_that_was_cut_and_healed_has_ended_the_run_and_lost_no_node(cut_off: Story) -> None:
    assert cut_off.again is not None
    assert cut_off.again.exit_code == 9, cut_off.again.stderr
    assert "its nodes lost each other" in cut_off.again.stderr
    assert f"gptops train two --nodes 2 --resume {cut_off.run_id}" in cut_off.again.stderr


def test_stop_lets_all_nodes_save_one_checkpoint_and_ends_them(lab: Lab, cut_off: Story) -> None:
    assert cut_off.last is not None
    answer = json.loads(cut_off.last.stdout)
    assert (cut_off.last.exit_code, answer["phase"], answer["exit_code"]) == (0, "ended", ExitCode.STOPPED)
    assert answer["nodes"] == [["box0", "ended"], ["box1", "ended"]]
    wait_until(lambda: not any(node.processes() for node in lab.nodes.all), what="nothing of it is left anywhere")


def started(lab: Lab, *words: str) -> str:
    """The id of a run that has saved a checkpoint of its own by now."""
    done = lab.gptops(*words, "--skip-setup", "--detach")
    assert done.exit_code == 0, done.stderr
    run_id = done.stdout.strip()
    wait_until(lambda: saved(lab, run_id), seconds=180, what="a checkpoint on node 0")
    return run_id


def saved(lab: Lab, run: str) -> bool:
    """Whether the run has told of a checkpoint of its own."""
    logs = (lab.nodes[0].home / "gptops").glob(f"{run}/logs/train.log")
    return any("saved `step_" in log.read_text() for log in logs)


def trains(lab: Lab, node: int) -> bool:
    return any("trainer" in line for line in lab.nodes[node].processes())
