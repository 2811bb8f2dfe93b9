"""gptops killed with SIGKILL while it has to do with several machines: the next call finds what there is, once."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest

from launcher.books.ledger import InstanceState, Ledger, RunRow, RunState
from launcher.errors import Unreachable
from launcher.hosts.steps import Lines
from launcher.managed.errand import Errand, begin, read
from launcher.managed.here import Choices, Here, checked_jobs
from launcher.managed.loop import carry_out
from launcher.providers.ssh import SshProvider
from launcher.running.tick import Talk
from tests.launcher.checkpoint_maker import silent
from tests.launcher.nodes_lab import Lab, make_lab
from tests.launcher.workshop import HurryingClock
from trainer import manifest

pytestmark = pytest.mark.slow

UP = ("up", "--nodes", "2", "--host", "lan")
TRAIN = ("train", "two", "--skip-setup", "--detach")
RUN = ("run", "two", "--skip-setup", "--skip-test")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from make_lab(tmp_path_factory.mktemp("lab"), 2, stand_ins=True)


@pytest.fixture(autouse=True)
def _free(lab: Lab) -> Iterator[None]:
    yield
    lab.nodes[1].release()
    lab.allow(None)


def kill(lab: Lab, *words: str, at: str) -> None:
    killed = lab.gptops(*words, crash_at=at)
    assert killed.exit_code == -signal.SIGKILL, f"{at}: {killed.stdout}{killed.stderr}"


def require_open(lab: Lab) -> None:
    """The group is open, by whomever; asked for again, it is taken as it is."""
    before = lab.open_hosts()
    up = lab.gptops(*UP)
    assert (up.exit_code, up.stdout) == (0, "box0\nbox1\n"), up.stderr
    assert len(lab.open_hosts()) == 2
    assert set(before) <= set(lab.open_hosts())


def stop(lab: Lab, run_id: str) -> None:
    """With what it has saved at home."""
    for verb in ("stop", "sync"):
        done = lab.gptops(verb, run_id)
        assert done.exit_code == 0, done.stderr


def books(lab: Lab) -> list[str]:
    """The labels of the machines that their provider takes for ours."""
    return sorted(there.label for there in SshProvider(lab.state.provider("ssh"), {}).labelled("gptops:"))


def runs(lab: Lab) -> list[RunRow]:
    with lab.ledger() as ledger:
        return ledger.runs()


def living(lab: Lab, node: int) -> set[str]:
    """The runs that live there, by the command lines of what looks after them."""
    found = (re.search(r"/([^/]+)/run.sh supervise", line) for line in lab.nodes[node].processes())
    return {match[1] for match in found if match}


def begun(lab: Lab, node: int) -> set[str]:
    """The runs that were ever started there."""
    return {path.parent.name for path in (lab.nodes[node].home / "gptops").glob("two-*/run.sh")}


def test_up_that_was_killed_among_several_opens_what_is_missing_and_nothing_twice(lab: Lab) -> None:
    lab.gptops("down", "lan", "--discard")
    for point in ("up:intended", "up:open"):
        kill(lab, *UP, at=point)
        with lab.ledger() as ledger:
            left = ledger.instances()
        assert len({row.name for row in left}) == len(left) <= 2, point
        assert set(books(lab)) <= {row.label for row in left}, f"{point}: nothing is open that is in no book"

    done = lab.gptops(*UP)
    assert (done.exit_code, done.stdout) == (0, "box0\nbox1\n"), done.stderr
    with lab.ledger() as ledger:
        opened = ledger.instances()
    assert [row.state for row in opened] == [InstanceState.OPEN] * 2
    assert books(lab) == sorted(row.label for row in opened)


def test_train_that_was_killed_has_started_on_all_nodes_or_on_none(lab: Lab) -> None:
    require_open(lab)
    lab.allow(0)
    before = {run.run_id for run in runs(lab)}
    kill(lab, *TRAIN, at="train:prepared")
    assert [living(lab, node) for node in (0, 1)] == [set(), set()]
    lab.nodes[1].hold("was not prepared")
    kill(lab, *TRAIN, at="train:node_started")
    lab.nodes[1].release()
    assert [len(living(lab, node)) for node in (0, 1)] == [1, 0], "node 0 waits for a node that never comes"
    killed = {run.run_id for run in runs(lab)} - before

    started = lab.gptops(*TRAIN)
    assert started.exit_code == 0, started.stderr
    lab.allow(3)
    running = started.stdout.strip()
    for node in (0, 1):
        assert living(lab, node) == {running}, "the only one"
        assert list((lab.nodes[node].home / "gptops" / "preparing").glob("*")) == []
    states = {run.run_id: run.state for run in runs(lab) if run.run_id not in before}
    assert states == {**dict.fromkeys(killed, RunState.ENDED), running: RunState.RUNNING}
    stop(lab, running)

    kill(lab, *TRAIN, at="train:started")
    [row] = [run for run in runs(lab) if run.run_id not in {*before, *states}]
    assert row.state is RunState.PREPARING
    assert [living(lab, node) for node in (0, 1)] == [{row.run_id}] * 2, "it goes on on both"
    stop(lab, row.run_id)
    assert [living(lab, node) for node in (0, 1)] == [set(), set()]


def test_run_that_was_killed_at_one_step_after_the_other_trains_once_and_to_the_end(lab: Lab) -> None:
    lab.gptops("down", "lan", "--discard")
    lab.allow(0)
    before = {run.run_id for run in runs(lab)}
    for point in ("up:open", "run:rented"):
        kill(lab, *RUN, at=point)
    lab.nodes[1].hold("was not prepared")
    kill(lab, *RUN, at="train:node_started")
    lab.nodes[1].release()
    kill(lab, *RUN, at="train:started")
    lab.allow(None)
    kill(lab, *RUN, at="sync:recorded")

    done = lab.gptops(*RUN)
    assert done.exit_code == 0, done.stderr
    [run] = [run for run in runs(lab) if run.run_id not in before and run.exit_code is not None]
    assert run.exit_code == 0
    home = lab.root / "runs" / run.run_id
    assert [manifest.verify(path).step for path in manifest.checkpoints(home / "checkpoints")] == [2, 4, 6, 8]
    assert sorted(lab.open_hosts()) == ["box0", "box1"]
    assert begun(lab, 1) - before == {run.run_id}, "started once"
    assert [living(lab, node) for node in (0, 1)] == [set(), set()]


def test_run_without_a_machine_left_says_what_to_type_and_goes_on_when_one_is_back(lab: Lab) -> None:
    require_open(lab)
    lab.write_jobs(on_finish="destroy")
    for node in (0, 1):
        lab.nodes.kill(node)
    clock = HurryingClock()
    with Ledger(lab.state.ledger, clock) as ledger:
        errand = begin(ledger, lab.root, ["two"])
        try:
            with pytest.raises(Unreachable) as raised:
                carry_out_here(errand, ledger, lab, clock)
        finally:
            lab.nodes.restart(0)
        assert raised.value.what == "`two` cannot go on on `lan`, and no other machines are known"
        assert raised.value.why.startswith("no machine of `lan` answers: ")
        assert raised.value.why.endswith("no checkpoint is at home")
        assert raised.value.hint.startswith("gptops run two ")
        assert sorted(lab.open_hosts()) == ["box0", "box1"], "what is one's own is not given up"

        lab.said.clear()
        done = carry_out_here(read(ledger.errand(errand.errand_id)), ledger, lab, clock)
    assert done.ending is not None
    assert (done.ending.exit_code, done.moves) == (0, 0), done.ending
    assert "going on with the rest, box0: 2 were wanted" in lab.said
    assert lab.open_hosts() == []
    dead = lab.nodes[1].address.host
    assert not [line for line in lab.said if dead in line and "trying again" in line], "nobody waits for it"
    lab.write_jobs()
    lab.nodes.restart(1)


def carry_out_here(errand: Errand, ledger: Ledger, lab: Lab, clock: HurryingClock) -> Errand:
    """As the command line does, but nobody waits."""
    talk = Talk(silent, lambda _pulled: None, lab.said.append)
    jobs, steps = checked_jobs(lab.project, errand.jobs), Lines(lab.said.append, clock)
    choices = Choices(skip_setup=True, skip_test=True)
    here = Here(lab.project, jobs, ledger, lab.state, clock, steps, talk, choices)
    return carry_out(errand, here.outside(errand, lambda _view: None))
