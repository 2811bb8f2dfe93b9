"""A checkpoint is whole or it is invisible."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer import manifest
from trainer.manifest import BrokenCheckpoint, Manifest


def published(folder: Path, step: int, files: dict[str, bytes] | None = None) -> Path:
    building = folder / f"{manifest.step_name(step)}.tmp"
    for name, content in (files or {"model.safetensors": b"weights", "train_state.json": b"{}"}).items():
        path = building / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return manifest.publish(building)


def test_a_published_checkpoint_is_whole_and_its_building_place_is_gone(tmp_path: Path) -> None:
    checkpoint = published(tmp_path, 500)
    assert checkpoint == tmp_path / "step_00000500"
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000500"]
    assert manifest.verify(checkpoint).total_bytes == len(b"weights") + len(b"{}")


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'say "x"', "new\nline", "$(touch x)", "-rf", "ünïcode", "deep/er/file"]
)
def test_any_file_name_is_carried(tmp_path: Path, name: str) -> None:
    checkpoint = published(tmp_path, 1, {name: b"content"})
    assert list(manifest.verify(checkpoint).files) == [name]


def test_checkpoints_are_listed_oldest_first_and_unfinished_ones_are_not(tmp_path: Path) -> None:
    for step in (1_000_000_000, 20, 3):
        published(tmp_path, step)
    (tmp_path / "step_00000030.tmp").mkdir()
    (tmp_path / "step_00000040").mkdir()
    (tmp_path / "best").mkdir()
    assert [path.name for path in manifest.checkpoints(tmp_path)] == [
        "step_00000003",
        "step_00000020",
        "step_1000000000",
    ]
    assert manifest.checkpoints(tmp_path / "nowhere") == []


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    checkpoint = published(tmp_path, 5)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    with pytest.raises(BrokenCheckpoint, match=r"`model\.safetensors` is not what was written"):
        manifest.verify(checkpoint)


def test_a_missing_a_short_and_a_linked_file_are_found(tmp_path: Path) -> None:
    for step, damage, words in (
        (1, lambda path: path.unlink(), "is missing"),
        (2, lambda path: path.write_bytes(b"wei"), "has 3 bytes, 7 were written"),
        (3, lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "no regular file"),
    ):
        checkpoint = published(tmp_path, step)
        damage(checkpoint / "model.safetensors")
        with pytest.raises(BrokenCheckpoint, match=words):
            manifest.verify(checkpoint)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "./x", "a\\b", "MANIFEST.json", "a\0b"])
def test_a_manifest_cannot_reach_outside_its_checkpoint(name: str) -> None:
    text = json.dumps({"format": 1, "step": 1, "files": {name: {"bytes": 1, "sha256": "0" * 64}}})
    with pytest.raises(BrokenCheckpoint, match="no file of a checkpoint"):
        manifest.parse_manifest(text)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 2}', '{"format": 1, "step": 1, "files": [1]}', "9" * 5000]
)
def test_a_manifest_that_is_none_is_broken_and_nothing_worse(text: str) -> None:
    with pytest.raises(BrokenCheckpoint):
        manifest.parse_manifest(text)


def test_a_manifest_of_another_step_is_broken(tmp_path: Path) -> None:
    checkpoint = published(tmp_path, 7)
    with pytest.raises(BrokenCheckpoint, match="is of step 7"):
        manifest.read_manifest(checkpoint.rename(tmp_path / "step_00000008"))


def test_a_removed_checkpoint_is_gone_and_removing_it_twice_is_no_error(tmp_path: Path) -> None:
    checkpoint = published(tmp_path, 9)
    manifest.remove(checkpoint)
    manifest.remove(checkpoint)
    assert list(tmp_path.iterdir()) == []


def test_the_file_alone_lists_on_a_host_without_any_package(tmp_path: Path) -> None:
    checkpoint = published(tmp_path, 11)
    (published(tmp_path, 12) / manifest.FILE_NAME).write_text("{")
    bare = [sys.executable, "-I", "-S", manifest.__file__, "list", str(tmp_path)]
    listing = json.loads(subprocess.run(bare, capture_output=True, check=True, cwd="/").stdout)
    assert [row["name"] for row in listing] == [checkpoint.name, "step_00000012"]
    assert manifest.parse_manifest(listing[0]["manifest"]) == manifest.read_manifest(checkpoint)
    assert "cannot be read" in listing[1]["broken"]


def published_part(folder: Path, part: int, *, parts: int = 2, step: int = 500, save: str = "a1") -> Path:
    building = folder / f"{manifest.step_name(step)}.tmp"
    (building / "model").mkdir(parents=True)
    (building / "model" / f"shard-{part}.safetensors").write_bytes(bytes([part]))
    (building / "config.yaml").write_bytes(b"seed: 1")
    return manifest.publish_as(building, Manifest(step, manifest.settled_files(building), part, parts, save))


def test_a_part_says_so_and_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    part = published_part(tmp_path, 1)
    found = manifest.read_manifest(part)
    assert (found.part, found.parts, found.is_whole) == (1, 2, False)
    assert manifest.checkpoints(tmp_path) == []
    assert manifest.published(tmp_path) == [part]
    assert manifest.verify_files(part) == found
    with pytest.raises(BrokenCheckpoint, match="one of 2 parts"):
        manifest.verify(part)


def test_a_reader_that_knows_no_parts_takes_one_for_broken_and_a_whole_one_reads_as_ever(tmp_path: Path) -> None:
    part, whole = (
        json.loads((path / manifest.FILE_NAME).read_text())
        for path in (
            published_part(tmp_path / "part", 0),
            published(tmp_path / "whole", 500),
        )
    )
    assert part["format"] == 2
    assert set(whole) == {"format", "step", "files"}
    assert whole["format"] == 1


def test_all_parts_of_a_save_make_a_checkpoint_in_any_order(tmp_path: Path) -> None:
    parts = [published_part(tmp_path / f"node{number}", number, parts=3) for number in (2, 0, 1)]
    before = [manifest.verify_files(part) for part in parts]
    (tmp_path / "home").mkdir()
    whole = manifest.merge_parts(parts, tmp_path / "home" / "step_00000500")
    found = manifest.verify(whole)
    assert found.is_whole
    assert set(found.files) == {"config.yaml", *(f"model/shard-{number}.safetensors" for number in range(3))}
    assert manifest.checkpoints(tmp_path / "home") == [whole]
    assert [manifest.verify_files(part) for part in parts] == before


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([], "these are 0"),
        ([(0, {})], "these are 0, 0"),
        ([(1, {"save": "b2"})], "not the parts of one save"),
        ([(1, {"step": 501})], "not the parts of one save"),
        ([(1, {"parts": 3})], "not the parts of one save"),
    ],
)
def test_parts_that_do_not_belong_together_make_nothing(tmp_path: Path, others: list[Any], words: str) -> None:
    parts = [published_part(tmp_path / "first", 0)]
    parts += [published_part(tmp_path / f"other{at}", part, **how) for at, (part, how) in enumerate(others)]
    (tmp_path / "home").mkdir()
    with pytest.raises(BrokenCheckpoint, match=words):
        manifest.merge_parts(parts, tmp_path / "home" / "step_00000500")
    assert list((tmp_path / "home").iterdir()) == []


def test_a_damaged_part_makes_nothing(tmp_path: Path) -> None:
    parts = [published_part(tmp_path / f"node{number}", number) for number in (0, 1)]
    (parts[1] / "model" / "shard-1.safetensors").write_bytes(b"x")
    with pytest.raises(BrokenCheckpoint, match="sha256 differs"):
        manifest.merge_parts(parts, tmp_path / "step_00000500")
    assert not (tmp_path / "step_00000500").exists()


@pytest.mark.parametrize("change", [{"part": 2}, {"part": -1}, {"parts": 1}, {"save": ""}, {"part": "x"}])
def test_a_part_that_cannot_be_is_broken(change: dict[str, object]) -> None:
    text = {"format": 2, "step": 1, "part": 0, "parts": 2, "save": "a1", "files": {}, **change}
    with pytest.raises(BrokenCheckpoint):
        manifest.parse_manifest(json.dumps(text))


def test_the_file_alone_lists_parts_and_merges_them(tmp_path: Path) -> None:
    parts = [str(published_part(tmp_path / f"node{number}", number)) for number in (0, 1)]
    bare = [sys.executable, "-I", "-S", manifest.__file__]
    listing = json.loads(
        subprocess.run([*bare, "list", str(tmp_path / "node1")], capture_output=True, check=True).stdout
    )
    assert [(row["name"], row["part"], row["parts"]) for row in listing] == [("step_00000500", 1, 2)]
    subprocess.run([*bare, "merge", str(tmp_path / "step_00000500"), *parts], capture_output=True, check=True)
    assert manifest.verify(tmp_path / "step_00000500").is_whole
