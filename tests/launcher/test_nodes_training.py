"""Several machines train as one: met, started, followed, stopped, brought home; and what happens when one is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.books.ledger import RunState
from launcher.hosts.preflight_checks import Asked, Verdict
from launcher.nodes.choosing import open_group
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
    """Three machines that `gptops up` has opened as a group: a job on two has one to spare."""
    for made in make_lab(tmp_path_factory.mktemp("lab"), 3):
        opened = made.gptops("up", "--nodes", "3", "--host", "lan")
        assert (opened.exit_code, opened.stdout) == (0, "box0\nbox1\nbox2\n"), opened.stderr
        yield made


@pytest.fixture(scope="module")
def trained(lab: Lab) -> Finished:
    """`gptops train two` on all three, to its end."""
    return lab.gptops("train", "two", "--nodes", "3")


def home(lab: Lab, run_id: str) -> Path:
    return lab.root / "runs" / run_id


def test_a_group_is_open_with_its_set_up_done_and_its_addresses_written_down(lab: Lab) -> None:
    assert all(list((node.home / "gptops" / "venvs").glob("*/.gptops-ready")) for node in lab.nodes.all)
    with lab.ledger() as ledger:
        inside = [node.address.host for node in lab.nodes.all]
        rows = sorted(ledger.instances(), key=lambda row: row.name)  # they were opened at once
    assert [(row.group_name, row.inside) for row in rows] == [("lan", each) for each in inside]


def test_three_nodes_train_one_model_to_the_end(lab: Lab, trained: Finished) -> None:
    assert trained.exit_code == 0, trained.stdout + trained.stderr
    assert trained.stdout.count("step 6/6  loss") == 1, "one training, told once"
    assert "3 nodes met at 198.18." in trained.stderr
    assert "over lan0" in trained.stderr


def test_a_run_on_three_nodes_is_one_run_in_the_books_and_in_ps(lab: Lab, trained: Finished) -> None:
    with lab.ledger() as ledger:
        [run] = ledger.runs()
        assert (run.state, run.exit_code) == (RunState.ENDED, 0)
        assert [node.host_name for node in ledger.nodes(run.run_id)] == ["box0", "box1", "box2"]
    shown = json.loads(lab.gptops("ps", "--json").stdout)
    words = {row["name"]: row["runs"] for row in shown}
    assert words == {f"box{node}": [f"{run.run_id} (ended, node {node} of 3)"] for node in (0, 1, 2)}


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


def test_parts_on_three_nodes_come_home_as_one_checkpoint_and_a_part_alone_stays(lab: Lab, trained: Finished) -> None:
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
    assert sorted(whole.files) == ["rank0.bin", "rank1.bin", "rank2.bin"]
    assert [broken["name"] for broken in answer["broken"]] == [manifest.step_name(12)]
    left = [path.name for folder in there for path in manifest.published(folder)]
    assert left == [manifest.step_name(12)], "the parts of what is whole at home have gone from all"
    manifest.remove(there[1] / manifest.step_name(12))


def publish_part(checkpoints: Path, step: int, part: int) -> None:
    """What a node that shares no disk with the others leaves of a sharded checkpoint."""
    building = checkpoints / f"{manifest.step_name(step)}.tmp"
    building.mkdir(parents=True)
    (building / f"rank{part}.bin").write_bytes(f"weights of rank {part} ".encode() * 500)
    files = manifest.settled_files(building)
    manifest.publish_as(building, manifest.Manifest(step, files, part=part, parts=3, save=f"save-{step}"))


def test_each_nodes_log_can_be_read(lab: Lab, trained: Finished) -> None:
    other = lab.gptops("logs", "--node", "1")
    assert other.exit_code == 0, other.stderr
    assert "step 6/6  loss" not in other.stdout, "node 0 tells it"
    nobodys = lab.gptops("logs", "--node", "3")
    assert (nobodys.exit_code, "there is no node 3" in nobodys.stderr) == (4, True)


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
        rows = open_group(ledger, "lan")[:2]
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


@pytest.fixture(scope="module")
def without_one(lab: Lab, trained: Finished) -> Iterator[subprocess.Popen[str]]:
    """`gptops run` on two of three machines, of which one has lost its power in the middle."""
    with lab.started("run", "long", "--skip-setup", "--skip-test") as running:
        first = wait_until(lambda: saving(lab, "long-*"), seconds=120, what="a checkpoint on node 0")
        lab.nodes.kill(1)
        wait_until(lambda: saving(lab, "long-*") - first, seconds=120, what="a checkpoint of the next run on node 0")
        yield running
        running.kill()


@pytest.fixture(scope="module")
def without_two(lab: Lab, without_one: subprocess.Popen[str]) -> Finished:
    """The same to its end, after the machine where they met has lost its power too."""
    lab.nodes.kill(0)
    stdout, stderr = without_one.communicate(timeout=240)
    wait_until(lambda: lab.nodes[2].processes() == [], what="nothing of it is left on the node that is there")
    for node in (0, 1):
        lab.nodes.restart(node)
    return Finished(without_one.returncode, stdout, stderr)


def nodes_of(lab: Lab, job: str) -> list[list[str]]:
    """The machines of each run of the job, oldest first."""
    with lab.ledger() as ledger:
        runs = [run for run in ledger.runs() if run.job == job]
        return [[node.host_name for node in ledger.nodes(run.run_id)] or [run.host_name] for run in runs]


def test_the_spare_machine_takes_the_place_of_one_that_is_lost(lab: Lab, without_one: subprocess.Popen[str]) -> None:
    assert without_one.poll() is None, "it goes on"
    assert nodes_of(lab, "long") == [["box0", "box1"], ["box0", "box2"]]


def test_without_the_machine_where_they_met_the_rest_goes_on_to_the_end(lab: Lab, without_two: Finished) -> None:
    assert without_two.exit_code == 0, without_two.stderr
    assert "lost box1; beginning anew from what is at home" in without_two.stderr
    assert "lost box0; beginning anew from what is at home" in without_two.stderr
    assert "going on with the rest, box2: 2 were wanted" in without_two.stderr
    assert nodes_of(lab, "long") == [["box0", "box1"], ["box0", "box2"], ["box2"]]
    with lab.ledger() as ledger:
        codes = [run.exit_code for run in ledger.runs() if run.job == "long"]
    assert codes == [ExitCode.PEER_LOST, ExitCode.PEER_LOST, 0]


def test_the_curve_over_all_its_runs_is_one(lab: Lab, without_two: Finished) -> None:
    with lab.ledger() as ledger:
        last = home(lab, [run for run in ledger.runs() if run.job == "long"][-1].run_id)
    rows = [json.loads(line) for line in (last / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 301)), "every step once"
    assert manifest.checkpoints(last / "checkpoints")[-1].name == manifest.step_name(300)


@dataclass(frozen=True)
class Story:
    """What was seen of one run that was cut in two."""

    run_id: str
    newest: Path
    """The newest checkpoint on the disk that the nodes share."""
    ended: Finished
    synced: Finished
    again: Finished


@pytest.fixture(scope="module")
def cut_off(lab: Lab) -> Story:
    """The cable of node 0, where they met, is pulled out in the middle and plugged in again."""
    run_id = started(lab, "train", "two", *ENDLESS)
    lab.nodes.cut(0)
    told_by_others = lab.gptops("logs", run_id, "-f")
    wait_until(lambda: not trains(lab, 0), seconds=180, what="the node that is cut off gives up too")
    newest = shared(lab, run_id)
    synced = lab.gptops("sync", run_id)
    lab.nodes.heal(0)
    told_by_all = lab.gptops("logs", run_id, "-f")
    return Story(run_id, newest, told_by_others, synced, told_by_all)


@pytest.fixture(scope="module")
def stopped(lab: Lab, cut_off: Story) -> Finished:
    """All go on from there, and are told to end."""
    again = started(lab, "train", "two", "--nodes", "2", "--resume", cut_off.run_id, *ENDLESS)
    return lab.gptops("stop", again, "--json")


def test_when_the_node_where_they_met_is_lost_the_others_tell_how_it_ended(cut_off: Story) -> None:
    assert cut_off.ended.exit_code == 9, cut_off.ended.stderr
    assert f"`{cut_off.run_id}` lost `box0`" in cut_off.ended.stderr


def test_what_the_others_have_of_a_shared_disk_comes_home_without_the_lost_node(lab: Lab, cut_off: Story) -> None:
    assert cut_off.synced.exit_code == 5, "the lost node may have more"
    assert "`box0`" in cut_off.synced.stderr
    there = home(lab, cut_off.run_id) / "checkpoints" / cut_off.newest.name
    assert manifest.verify(there).step == manifest.step_of(there.name)
    rows = [json.loads(line) for line in (there.parents[1] / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row][-1] >= manifest.verify(there).step


def test_a_link_that_was_cut_and_healed_has_ended_the_run_and_lost_no_node(cut_off: Story) -> None:
    assert cut_off.again.exit_code == 9, cut_off.again.stderr
    assert "its nodes lost each other" in cut_off.again.stderr
    assert f"gptops train two --nodes 2 --resume {cut_off.run_id}" in cut_off.again.stderr


def test_stop_lets_all_nodes_save_one_checkpoint_and_ends_them(lab: Lab, stopped: Finished) -> None:
    answer = json.loads(stopped.stdout)
    assert (stopped.exit_code, answer["phase"], answer["exit_code"]) == (0, "ended", ExitCode.STOPPED)
    assert answer["nodes"] == [["box0", "ended"], ["box1", "ended"]]
    wait_until(lambda: not any(node.processes() for node in lab.nodes.all), what="nothing of it is left anywhere")


def started(lab: Lab, *words: str) -> str:
    """The id of a run that has saved a checkpoint of its own by now."""
    done = lab.gptops(*words, "--skip-setup", "--detach")
    assert done.exit_code == 0, done.stderr
    run_id = done.stdout.strip()
    wait_until(lambda: saving(lab, run_id), seconds=180, what="a checkpoint on node 0")
    return run_id


def saving(lab: Lab, run: str) -> set[str]:
    """Such runs that have told of a checkpoint of their own on node 0."""
    logs = (lab.nodes[0].home / "gptops").glob(f"{run}/logs/train.log")
    return {log.parents[1].name for log in logs if "saved `step_" in log.read_text()}


def shared(lab: Lab, run_id: str) -> Path:
    """The newest checkpoint of node 0, which node 1 has too, as on a disk that they share; with the metrics."""
    mine, others = (lab.nodes[node].home / "gptops" / run_id for node in (0, 1))
    newest = manifest.checkpoints(mine / "checkpoints")[-1]
    shutil.copytree(newest, others / "checkpoints" / newest.name)
    shutil.copy(mine / "metrics.jsonl", others)
    return newest


def trains(lab: Lab, node: int) -> bool:
    return any("trainer" in line for line in lab.nodes[node].processes())
