"""Several machines train as one: met, started, followed, stopped, brought home; and what happens when one is lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.books.ledger import RunState
from tests.launcher.command_line import Finished
from tests.launcher.nodes_lab import JOB, Lab, make_lab
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
        assert [(row.group_name, row.inside) for row in ledger.instances()] == [("lan", each) for each in inside]


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
    assert [row["runs"] for row in shown] == [[f"{run.run_id} (ended, node {node} of 2)"] for node in (0, 1)]


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


def test_each_nodes_log_can_be_read(lab: Lab, trained: Finished) -> None:
    other = lab.gptops("logs", "--node", "1")
    assert other.exit_code == 0, other.stderr
    assert "step 6/6  loss" not in other.stdout, "node 0 tells it"
    nobodys = lab.gptops("logs", "--node", "2")
    assert (nobodys.exit_code, "there is no node 2" in nobodys.stderr) == (4, True)


def test_a_port_that_is_taken_is_said_before_anything_starts(lab: Lab) -> None:
    port = 29555
    argv = ["python3", "-c", f"import socket; s = socket.create_server(('', {port})); print(1, flush=True); s.accept()"]
    text = JOB.format(name="two", nodes=2)
    lab.write_jobs(two=text.replace("{nodes: 2}", f"{{nodes: 2, rendezvous_port: {port}}}"))
    inside = lab.nodes[0].inside(*argv)
    try:
        with subprocess.Popen(inside, stdout=subprocess.PIPE) as taker:
            assert taker.stdout is not None
            taker.stdout.readline()
            refused = lab.gptops("train", "two", "--skip-setup")
            taker.kill()
    finally:
        lab.write_jobs(two=text)

    assert refused.exit_code == 7, refused.stderr
    assert "the nodes cannot meet on `box0`" in refused.stderr
    assert f"port {port} is taken" in refused.stderr
    with lab.ledger() as ledger:
        assert ledger.runs()[-1].state is RunState.ENDED
    assert not list((lab.nodes[1].home / "gptops" / "preparing").glob("*"))


@dataclass(frozen=True)
class Story:
    """What was seen of one run, from its beginning to what went on from it."""

    run_id: str
    ended: Finished
    again: Finished
    last: Finished | None = None


@pytest.fixture(scope="module")
def without_power(lab: Lab, trained: Finished) -> Story:
    """Node 1 loses its power in the middle; then the command that the error names."""
    run_id = started(lab, "train", "two", *ENDLESS)
    lab.nodes.kill(1)
    ended = lab.gptops("logs", run_id, "-f")
    left = lab.nodes[0].processes()
    again = lab.gptops("train", "two", "--nodes", "1", "--resume", run_id, "train.max_steps=1", "--skip-setup")
    lab.nodes.restart(1)
    assert left == [], "nothing of the run is left on the node that is there"
    return Story(run_id, ended, again)


@pytest.fixture(scope="module")
def cut_off(lab: Lab, without_power: Story) -> Story:
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


def test_a_node_that_loses_its_power_ends_the_run_on_the_others(without_power: Story) -> None:
    ended, run_id = without_power.ended, without_power.run_id
    assert ended.exit_code == 9, ended.stderr
    assert f"`{run_id}` lost `box1`, and the other nodes ended with exit code {ExitCode.PEER_LOST:d}" in ended.stderr


def test_one_command_that_the_error_names_goes_on_with_the_rest(without_power: Story) -> None:
    assert f"gptops train two --nodes 1 --resume {without_power.run_id}" in without_power.ended.stderr
    again = without_power.again
    assert again.exit_code == 0, again.stderr
    assert "goes on from `step_" in again.stderr
    assert "resumed from `step_" in again.stdout


def test_when_the_node_where_they_met_is_lost_the_others_tell_how_it_ended(cut_off: Story) -> None:
    assert cut_off.ended.exit_code == 9, cut_off.ended.stderr
    assert f"`{cut_off.run_id}` lost `box0`" in cut_off.ended.stderr


def test_a_link_that_was_cut_and_healed_has_ended_the_run_and_lost_no_node(cut_off: Story) -> None:
    assert cut_off.again.exit_code == 9, cut_off.again.stderr
    assert "its nodes lost each other" in cut_off.again.stderr
    assert f"gptops train two --nodes 2 --resume {cut_off.run_id}" in cut_off.again.stderr


def test_stop_lets_all_nodes_save_one_checkpoint_and_ends_them(lab: Lab, cut_off: Story) -> None:
    assert cut_off.last is not None
    answer = json.loads(cut_off.last.stdout)
    assert (cut_off.last.exit_code, answer["phase"], answer["exit_code"]) == (0, "ended", ExitCode.STOPPED)
    assert answer["nodes"] == [["box0", "ended"], ["box1", "ended"]]
    assert [node.processes() for node in lab.nodes.all] == [[], []]


def started(lab: Lab, *words: str) -> str:
    """The id of a run that has saved a checkpoint of its own by now."""
    done = lab.gptops(*words, "--skip-setup", "--detach")
    assert done.exit_code == 0, done.stderr
    run_id = done.stdout.strip()
    log = lab.nodes[0].home / "gptops" / run_id / "logs" / "train.log"
    wait_until(lambda: log.exists() and "saved `step_" in log.read_text(), seconds=180, what="a checkpoint on node 0")
    return run_id


def trains(lab: Lab, node: int) -> bool:
    return any("trainer" in line for line in lab.nodes[node].processes())
