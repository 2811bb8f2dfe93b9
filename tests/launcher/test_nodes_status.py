"""What several nodes say of one run, as of one run; and checkpoints whose parts lie on several."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger, RunRow, RunState
from launcher.checkpoints.parts import is_part_at_home, one_listing
from launcher.checkpoints.remote_checkpoints import Listing, RemoteCheckpoint
from launcher.errors import HostUnfit, NotFound, RunFailed, Unreachable
from launcher.managed.training import nodes_that_divide
from launcher.managed.verdict import Action, Facts, verdict
from launcher.nodes.choosing import choose_nodes
from launcher.paths import LocalRun, StatePaths
from launcher.remote.together import each, together
from launcher.running.outcome import require_no_failure
from launcher.running.status import STOPPED, Phase, RunStatus, status_of_nodes
from launcher.spec.jobs_file import load_jobs
from tests.conftest import FakeClock
from trainer.errors import ExitCode
from trainer.manifest import FileEntry, Manifest, step_name

NAMES = ("a", "b")
RUNNING = RunStatus(Phase.RUNNING, alive=True, processes=2)
LOST = RunStatus(Phase.LOST, attempt=1)
ABSENT = RunStatus(Phase.ABSENT)
SILENT = Unreachable("no answer")
RUN = RunRow("demo-1", "demo", "a", "l", "/p", "/r", 0.0, RunState.RUNNING, None, True, 2)


def ended(code: int, at: int = 1) -> RunStatus:
    return RunStatus(Phase.ENDED, exit_code=code, ended_at=at, attempt=1)


@pytest.mark.parametrize(
    ("nodes", "phase", "code"),
    [
        ((RUNNING, RUNNING), Phase.RUNNING, None),
        ((RUNNING, SILENT), Phase.RUNNING, None),
        ((ABSENT, ABSENT), Phase.ABSENT, None),
        ((ended(0), ended(0)), Phase.ENDED, 0),
        ((ended(0), RUNNING), Phase.RUNNING, 0),
        ((ended(STOPPED), ended(STOPPED)), Phase.ENDED, STOPPED),
        ((ended(ExitCode.PEER_LOST), SILENT), Phase.ENDED, ExitCode.PEER_LOST),
        ((ended(ExitCode.PEER_LOST), LOST), Phase.ENDED, ExitCode.PEER_LOST),
        ((LOST, LOST), Phase.LOST, None),
        ((ended(ExitCode.PEER_LOST, at=9), ended(ExitCode.DATA, at=5)), Phase.ENDED, ExitCode.DATA),
        ((ended(1, at=9), ended(ExitCode.DATA, at=5)), Phase.ENDED, ExitCode.DATA),
    ],
)
def test_what_nodes_say_is_one_status(nodes: tuple[RunStatus, ...], phase: Phase, code: int | None) -> None:
    status = status_of_nodes(NAMES, nodes)
    assert (status.phase, status.exit_code) == (phase, code)


def test_when_nobody_answers_it_is_the_network() -> None:
    with pytest.raises(Unreachable):
        status_of_nodes(NAMES, (SILENT, SILENT))


def test_a_refusal_of_one_node_is_no_silence() -> None:
    with pytest.raises(HostUnfit):
        status_of_nodes(NAMES, (RUNNING, HostUnfit("no")))


def test_lost_nodes_are_named_with_the_command_that_goes_on_with_the_rest() -> None:
    status = status_of_nodes(("a", "b", "c"), (ended(ExitCode.PEER_LOST), SILENT, ended(ExitCode.PEER_LOST)))
    assert status.lost_nodes == ("b",)
    with pytest.raises(RunFailed) as raised:
        require_no_failure(RUN, status, b"node 1 is gone")
    assert raised.value.hint.startswith("gptops train demo --nodes 2 --resume demo-1   # on the rest")


def test_gptops_run_begins_anew_on_the_nodes_that_answer_and_not_for_ever() -> None:
    status = status_of_nodes(NAMES, (ended(ExitCode.PEER_LOST), SILENT))
    decision = verdict(Facts(run=status))
    assert (decision.action, decision.why.endswith(": lost b")) == (Action.AGAIN, True)
    assert verdict(Facts(run=status, restarts=3)).action is Action.FAIL
    assert verdict(Facts(run=ended(ExitCode.PEER_LOST))).action is Action.RESTART, "on one machine, in its folder"


def test_the_rest_are_as_many_as_the_batch_divides_over(tmp_path: Path) -> None:
    (tmp_path / "jobs.yaml").write_text(
        "jobs: {wide: {stage: pretrain, provider: ssh, host: four, resources: {nodes: 4, gpus: 2}, train: {train: "
        "{global_batch_size: 16, micro_batch_size: 1, max_steps: 2}, schedule: {warmup_steps: 1}}}}\n"
        "hosts: {a: {host: a, gpus: 2}, b: {host: b, gpus: 2}, c: {host: c, gpus: 2}, d: {host: d, gpus: 2}}\n"
        "groups: {four: [a, b, c, d]}\n"
    )
    jobs = load_jobs(tmp_path / "jobs.yaml")
    assert [nodes_that_divide("wide", jobs, most) for most in (4, 3, 2, 1)] == [4, 2, 2, 1]


def test_what_began_on_a_part_of_its_nodes_is_told_from_what_runs() -> None:
    assert status_of_nodes(NAMES, (RUNNING, ABSENT)).is_in_part
    assert status_of_nodes(NAMES, (ended(1), ABSENT)).is_in_part
    for nodes in ((RUNNING, RUNNING), (RUNNING, SILENT), (ABSENT, ABSENT), (ABSENT, SILENT)):
        assert not status_of_nodes(NAMES, nodes).is_in_part


def test_together_raises_the_first_error_under_its_machines_name_after_all_are_done() -> None:
    done = []

    def act(node: int) -> int:
        done.append(node)
        if node > 0:
            raise HostUnfit("no rsync", why="not installed")
        return node

    with pytest.raises(HostUnfit) as raised:
        together(("a", "b", "c"), act)
    assert (raised.value.what, raised.value.why) == ("`b`: no rsync", "not installed; failed too: c")
    assert sorted(done) == [0, 1, 2]
    assert [str(answer) for answer in each(("a", "b"), act)] == ["0", "`b`: no rsync"]


def a_part(number: int, name: str, *, parts: int = 2, save: str = "s1", step: int = 5) -> RemoteCheckpoint:
    content = FileEntry(len(name), hashlib.sha256(name.encode()).hexdigest())
    manifest = Manifest(step, {name: content}, part=number, parts=parts, save=save)
    return RemoteCheckpoint(step, manifest.to_json(), manifest)


def test_all_parts_of_one_save_are_one_checkpoint() -> None:
    first, second = a_part(0, "w0"), a_part(1, "w1")
    listing = one_listing(NAMES, [Listing(parts=(first,)), Listing(parts=(second,))])

    [whole] = listing.whole
    assert whole.manifest.is_whole
    assert sorted(whole.manifest.files) == ["w0", "w1"]
    assert [(piece.node, piece.checkpoint) for piece in whole.pieces] == [(0, first), (1, second)]
    assert not listing.broken


def test_a_part_alone_counts_for_nothing_and_says_who_did_not_answer() -> None:
    listing = one_listing(NAMES, [Listing(parts=(a_part(0, "w0"),)), None])
    assert not listing.whole
    [broken] = listing.broken
    assert broken.name == step_name(5)
    assert "b did not answer" in broken.why


def test_parts_of_two_saves_of_one_step_are_not_mixed() -> None:
    listing = one_listing(NAMES, [Listing(parts=(a_part(0, "w0"),)), Listing(parts=(a_part(1, "w1", save="s2"),))])
    assert not listing.whole
    assert len(listing.broken) == 2


def test_a_whole_checkpoint_that_both_nodes_have_is_listed_once() -> None:
    manifest = Manifest(3, {"w": FileEntry(1, "0" * 64)})
    same = RemoteCheckpoint(3, manifest.to_json(), manifest)
    [whole] = one_listing(NAMES, [Listing((same,)), Listing((same,))]).whole
    assert [piece.node for piece in whole.pieces] == [0, 1], "pulled from the first, forgotten by both"


def test_a_part_is_at_home_when_the_whole_there_has_its_files(tmp_path: Path) -> None:
    local, part = LocalRun(tmp_path), a_part(0, "w0")
    folder = local.checkpoints / part.name
    assert not is_part_at_home(local, part)
    folder.mkdir(parents=True)
    (folder / "w0").write_bytes(b"w0")
    (folder / "MANIFEST.json").write_text(Manifest(5, dict(part.manifest.files)).to_json())
    assert is_part_at_home(local, part)
    (folder / "w0").write_bytes(b"w1")
    assert not is_part_at_home(local, part)


def test_a_group_that_is_not_open_as_such_is_told_with_the_one_that_is(tmp_path: Path, fake_clock: FakeClock) -> None:
    """Not `gptops up`, which would find its machines open already."""
    with Ledger(tmp_path / "ledger.sqlite3", fake_clock) as ledger:
        for name in ("a", "b", "c"):
            ledger.intend_instance(
                label=f"gptops:p:{name}", name=name, provider="ssh", project="p", price_per_hour=0.0, gpus=0,
                gpu_name="", group_name="trio",
            )  # fmt: skip
            ledger.mark_instance(f"gptops:p:{name}", InstanceState.OPEN, instance_id=name)
        with pytest.raises(NotFound) as raised:
            choose_nodes(ledger, "pair", 2, "big", StatePaths(tmp_path), fake_clock)
        assert raised.value.hint == "gptops train big --host trio --nodes 2"
        with pytest.raises(NotFound) as raised:
            choose_nodes(ledger, "pair", 4, "big", StatePaths(tmp_path), fake_clock)
        assert raised.value.hint.startswith("gptops up ")
        with pytest.raises(NotFound) as raised:
            choose_nodes(ledger, "trio", 4, "big", StatePaths(tmp_path), fake_clock)
        assert raised.value.hint == "gptops train big --host trio --nodes 3"
