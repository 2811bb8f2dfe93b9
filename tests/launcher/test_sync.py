"""Sync against a real sshd: what comes home, what may be deleted, and in which order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import Ledger
from launcher.checkpoints.remote_checkpoints import remove_remote
from launcher.checkpoints.sync import Policy
from launcher.clock import SystemClock
from launcher.errors import NotVerified
from launcher.paths import LocalRun
from launcher.remote.ssh import SshTransport
from tests.launcher.checkpoint_maker import FILES, Scene, names, tree, write_checkpoint
from tests.launcher.conftest import SshHost
from trainer import manifest

KEEP = Policy(delete_remote=False)


@pytest.fixture(scope="module")
def transport(ssh_host: SshHost) -> Iterator[SshTransport]:
    opened = ssh_host.transport()
    yield opened
    opened.close()


@pytest.fixture
def scene(ssh_host: SshHost, transport: SshTransport, tmp_path: Path) -> Iterator[Scene]:
    with Ledger(tmp_path / "ledger.sqlite3", SystemClock()) as ledger:
        yield Scene(ssh_host, transport, LocalRun(tmp_path / "run"), ledger)


def test_whole_checkpoints_come_home_byte_for_byte_and_are_recorded(scene: Scene) -> None:
    scene.publish(10, 20)
    done = scene.sync(policy=KEEP)
    assert tree(scene.here) == tree(scene.there)
    assert scene.steps_here() == scene.steps_there() == names(10, 20)
    assert [pulled.step for pulled in done.pulled] == [pulled.step for pulled in scene.announced] == [20, 10]
    assert [(row.step, row.pruned_at) for row in scene.ledger.checkpoints(scene.run_id)] == [(10, None), (20, None)]
    assert not scene.home.incoming.exists()


def test_the_newest_two_of_a_living_run_stay_on_the_host(scene: Scene) -> None:
    scene.publish(1, 2, 3, 4)
    assert scene.sync().pruned == [1, 2]
    assert (scene.steps_here(), scene.steps_there()) == (names(1, 2, 3, 4), names(3, 4))
    assert [row.step for row in scene.ledger.checkpoints(scene.run_id) if row.pruned_at] == [1, 2]


def test_after_the_run_has_ended_everything_verified_may_go(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    scene.sync()
    assert scene.sync(has_ended=True).pruned == [2, 3]
    assert (scene.steps_here(), scene.steps_there()) == (names(1, 2, 3), [])


def test_nothing_is_deleted_when_nothing_may_be(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    assert scene.sync(has_ended=True, policy=KEEP).pruned == []
    assert scene.steps_there() == names(1, 2, 3)


def test_a_second_look_transfers_nothing(scene: Scene) -> None:
    scene.publish(1, 2)
    scene.sync()
    before = {path: path.stat().st_mtime_ns for path in scene.here.rglob("*")}
    done = scene.sync()
    assert (done.pulled, done.pruned, done.problems) == ([], [], [])
    assert {path: path.stat().st_mtime_ns for path in scene.here.rglob("*")} == before


def test_a_run_without_checkpoints_is_no_error(scene: Scene) -> None:
    assert scene.sync().listing.whole == ()
    assert scene.steps_here() == []


def test_what_is_still_being_written_is_invisible(scene: Scene) -> None:
    scene.publish(1)
    (scene.there / "step_00000002.tmp").mkdir()
    (scene.there / "step_00000002.tmp" / "model.safetensors").write_bytes(b"half")
    (scene.there / "step_00000003").mkdir()
    assert [checkpoint.step for checkpoint in scene.sync(has_ended=True).listing.whole] == [1]
    assert scene.steps_there() == ["step_00000002.tmp", "step_00000003"]


def test_broken_checkpoints_of_the_host_are_named_and_skipped(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    (scene.there / "step_00000001" / manifest.FILE_NAME).write_text('{"format": 1, "step"')
    (scene.there / "step_00000002" / manifest.FILE_NAME).write_text('{"format": 1, "step": 7, "files": {}}')
    done = scene.sync(has_ended=True)
    assert [broken.name for broken in done.broken] == names(1, 2)
    assert "cannot be read" in done.broken[0].why
    assert "is of step 7" in done.broken[1].why
    assert (scene.steps_here(), scene.steps_there()) == (names(3), names(1, 2))


@pytest.mark.parametrize(
    "name", ["../escaped", "/etc/escaped", "a/../../escaped", "./x", "a//b", "", "x\\y", "MANIFEST.json", "a\0b"]
)
def test_a_manifest_that_reaches_outside_its_folder_is_refused(scene: Scene, name: str) -> None:
    scene.publish(1)
    entry = manifest.FileEntry(2, manifest.hashlib.sha256(b"{}").hexdigest())
    evil = manifest.Manifest(1, {"train_state.json": entry, name: entry})
    (scene.there / "step_00000001" / manifest.FILE_NAME).write_text(evil.to_json())
    done = scene.sync(has_ended=True)
    assert [broken.name for broken in done.broken] == names(1)
    assert not scene.home.root.exists() or tree(scene.home.root) == {}
    assert scene.steps_there() == names(1)


@pytest.mark.parametrize(
    "text", ['{"format": 1, "step": Infinity, "files": {}}', "[" * 100_000, "null", '{"format": 99}', "\xff"]
)
def test_nonsense_for_a_manifest_is_a_broken_checkpoint(scene: Scene, text: str) -> None:
    scene.publish(1)
    (scene.there / "step_00000001" / manifest.FILE_NAME).write_bytes(text.encode("latin-1"))
    assert [broken.name for broken in scene.sync().broken] == names(1)


def test_file_names_that_a_shell_would_read_arrive_as_they_are(scene: Scene) -> None:
    hostile = [
        "a b",
        "it's",
        'say "hi"',
        "$(touch pwned)",
        "`id`",
        "line\nbreak",
        "-rf",
        "#hash",
        ";semi",
        "*",
        "é",
        "~",
        "sub/in it",
    ]
    files = {name: name.encode() for name in hostile} | {os.fsdecode(b"raw\xff"): b"bytes"}
    scene.publish(1, files=files)
    done = scene.sync(has_ended=True)
    assert (done.problems, done.pruned) == ([], [1])
    assert {
        name: content for name, content in tree(scene.here / "step_00000001").items() if name != manifest.FILE_NAME
    } == files


def test_what_a_host_slips_in_beside_the_manifest_stays_there(scene: Scene) -> None:
    scene.publish(1)
    (scene.there / "step_00000001" / "surprise.sh").write_text("rm -rf ~")
    scene.sync(policy=KEEP)
    assert set(tree(scene.here / "step_00000001")) == {*FILES, manifest.FILE_NAME}


def test_a_symbolic_link_for_a_file_is_not_followed_and_not_committed(scene: Scene, tmp_path: Path) -> None:
    scene.publish(1, 2)
    outside = tmp_path / "secret"
    outside.write_bytes(FILES["train_state.json"])
    linked = scene.there / "step_00000001" / "train_state.json"
    linked.unlink()
    linked.symlink_to(outside)
    done = scene.sync(has_ended=True)
    assert done.missing == [1]
    assert "`train_state.json` is missing" in done.problems[0].error.why
    assert (scene.steps_here(), scene.steps_there()) == (names(2), names(1))


def test_a_corrupt_checkpoint_is_not_committed_and_not_deleted_remotely(scene: Scene) -> None:
    scene.publish(1, 2)
    flip_a_byte(scene.there / "step_00000001" / "model.safetensors")
    done = scene.sync(has_ended=True)
    assert done.missing == [1]
    assert done.problems[0].error.what == "`step_00000001` did not come home whole"
    assert "sha256 differs" in done.problems[0].error.why
    assert "is damaged itself" in done.problems[0].error.why
    assert (scene.steps_here(), scene.steps_there()) == (names(2), names(1))
    assert not scene.home.incoming.exists()


def test_a_byte_that_flips_while_the_transfer_rests_is_fetched_again(scene: Scene) -> None:
    scene.publish(1)
    [checkpoint] = scene.listing().whole
    arriving = scene.home.incoming / checkpoint.name
    shutil.copytree(scene.there / checkpoint.name, arriving, copy_function=shutil.copy2)
    flip_a_byte(arriving / "model.safetensors", keep_time_of=scene.there / checkpoint.name / "model.safetensors")
    assert [pulled.step for pulled in scene.sync(policy=KEEP).pulled] == [1]
    assert tree(scene.here) == tree(scene.there)


def test_what_rests_from_another_run_of_the_same_step_is_not_mixed_in(scene: Scene) -> None:
    scene.publish(1)
    mixed = {name: bytes(len(content)) for name, content in FILES.items()}
    other = write_checkpoint(scene.home.incoming, 1, mixed)
    for name in FILES:
        shutil.copystat(scene.there / "step_00000001" / name, other / name)
    assert [pulled.step for pulled in scene.sync(policy=KEEP).pulled] == [1]
    assert tree(scene.here) == tree(scene.there)


def test_the_same_step_with_another_content_is_a_conflict_and_both_are_kept(scene: Scene) -> None:
    scene.publish(1, 2)
    mine = write_checkpoint(scene.here, 1, {"model.safetensors": b"of yesterday"})
    done = scene.sync(has_ended=True)
    assert done.missing == [1]
    error = done.problems[0].error
    assert error.what == f"`step_00000001` at home is not the one on {scene.host.host.name}"
    assert error.hint == f"keep yours under another name, then sync again: mv {mine} {mine}.mine"
    assert (mine / "model.safetensors").read_bytes() == b"of yesterday"
    assert scene.steps_there() == names(1)


def test_a_damaged_copy_at_home_keeps_the_one_on_the_host(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    scene.sync(policy=KEEP)
    flip_a_byte(scene.here / "step_00000001" / "model.safetensors")
    (scene.here / "step_00000002" / manifest.FILE_NAME).unlink()
    done = scene.sync(has_ended=True)
    assert (done.missing, done.pruned) == ([1, 2], [3])
    assert all("at home is damaged" in problem.error.what for problem in done.problems)
    assert (scene.steps_here(), scene.steps_there()) == (names(1, 2, 3), names(1, 2))


def test_a_copy_that_vanished_at_home_is_fetched_again_whatever_the_ledger_says(scene: Scene) -> None:
    scene.publish(1, 2)
    scene.sync()
    shutil.rmtree(scene.here / "step_00000002")
    assert [pulled.step for pulled in scene.sync(has_ended=True).pulled] == [2]
    assert (scene.steps_here(), scene.steps_there()) == (names(1, 2), [])


def test_a_committed_checkpoint_that_was_not_recorded_is_recognised_by_reading_it(scene: Scene) -> None:
    scene.publish(1)
    shutil.copytree(scene.there / "step_00000001", scene.here / "step_00000001")
    done = scene.sync(has_ended=True)
    assert (done.pulled, done.pruned, done.problems) == ([], [1], [])
    assert [row.step for row in scene.ledger.checkpoints(scene.run_id)] == [1]


def test_an_emptied_host_takes_nothing_from_home(scene: Scene) -> None:
    scene.publish(1, 2, 3)
    scene.sync()
    before = tree(scene.here)
    shutil.rmtree(scene.host.home / scene.remote.root)
    scene.sync(has_ended=True)
    assert tree(scene.here) == before


def test_a_checkpoint_replaced_on_the_host_between_looking_and_pruning_is_left_alone(scene: Scene) -> None:
    scene.publish(1)
    with scene.opened() as sync:
        checkpoint = scene.listing().whole[0]
        shutil.rmtree(scene.there / "step_00000001")
        scene.publish(1, files={"model.safetensors": b"trained again"})
        with pytest.raises(NotVerified, match="was left on"):
            remove_remote(sync.puller.transport, sync.puller.folder, checkpoint)
    assert scene.steps_there() == names(1)


def test_a_checkpoint_that_lost_its_manifest_on_the_host_is_left_alone(scene: Scene) -> None:
    scene.publish(1)
    [checkpoint] = scene.listing().whole
    (scene.there / "step_00000001" / manifest.FILE_NAME).unlink()
    with pytest.raises(NotVerified, match="was left on"):
        remove_remote(scene.transport, scene.remote.checkpoints, checkpoint)
    assert scene.steps_there() == names(1)


def test_removing_what_is_gone_already_is_success(scene: Scene) -> None:
    scene.publish(1)
    [checkpoint] = scene.listing().whole
    shutil.rmtree(scene.there / "step_00000001")
    remove_remote(scene.transport, scene.remote.checkpoints, checkpoint)
    assert scene.listing().whole == ()


def test_what_a_killed_removal_left_on_the_host_goes_with_the_next_one(scene: Scene) -> None:
    scene.publish(1)
    left = scene.there / "step_00000001.removed.tmp"
    left.mkdir()
    (left / "half").write_text("")
    assert scene.sync(has_ended=True).pruned == [1]
    assert scene.steps_there() == []


def test_leftovers_that_cannot_be_gone_on_with_are_removed(scene: Scene) -> None:
    scene.publish(1)
    scene.sync(policy=KEEP)
    for name in ("step_00000001", "step_00000099"):
        (scene.home.incoming / name).mkdir(parents=True)
        (scene.home.incoming / name / ".model.safetensors.Ab12Cd").write_bytes(b"half")
    (scene.home.incoming / ".metrics.jsonl.Zz99Zz").write_text("")
    scene.sync(policy=KEEP)
    assert not scene.home.incoming.exists()


def flip_a_byte(path: Path, keep_time_of: Path | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if keep_time_of is not None:
        shutil.copystat(keep_time_of, path)
