"""Two nodes without a shared disk are one training, and what they saved goes on with any number of processes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.trainer.apart import Apart
from tests.trainer.tiny import (
    checkpoint,
    checkpoints,
    largest_difference,
    tensors,
    train_tiny,
)
from trainer import manifest
from trainer.checkpoints.checkpoint import read_state
from trainer.models.init_from import initial_weights
from trainer.models.policies import open_policy

EXACT = ("model.dropout=0", "train.global_batch_size=12", "schedule.kind=constant", "train.parallel=fsdp")


def trained_apart(folders: Sequence[Path], *overrides: str) -> list[str]:
    """What each node said, after all ended well."""
    with Apart(folders, *overrides) as nodes:
        ends = nodes.finished()
    assert [code for code, _out, _err in ends] == [0] * len(folders), ends
    return [out for _code, out, _err in ends]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that trained as long as all others here together."""
    out_dir = tmp_path_factory.mktemp("straight") / "run"
    train_tiny(out_dir, *EXACT, "train.max_steps=6")
    return out_dir


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two nodes of one process each that stopped after four steps."""
    folder = tmp_path_factory.mktemp("apart")
    folders = [folder / f"node{number}" for number in (0, 1)]
    said = trained_apart(folders, *EXACT, "train.max_steps=4")
    assert "saved `step_00000004` in 2 parts" in said[0]
    return folders


@pytest.fixture
def whole(apart: list[Path], tmp_path: Path) -> Path:
    """A run's folder with what they saved, merged as the launcher does it."""
    out_dir = tmp_path / "run"
    (out_dir / "checkpoints").mkdir(parents=True)
    manifest.merge_parts([checkpoint(node, 4) for node in apart], checkpoint(out_dir, 4))
    return out_dir


def test_each_node_publishes_its_own_part_and_no_node_has_a_checkpoint(apart: list[Path]) -> None:
    found = [manifest.verify_files(checkpoint(node, 4)) for node in apart]
    assert [(part.part, part.parts) for part in found] == [(0, 2), (1, 2)]
    assert found[0].save == found[1].save
    assert set(found[1].files) == {"model/rank_00001.safetensors", "optimizer/rank_00001.safetensors"}
    assert [checkpoints(node) for node in apart] == [[], []]


def test_they_learn_what_one_process_does(whole: Path, tmp_path: Path) -> None:
    train_tiny(tmp_path / "one", *EXACT, "train.max_steps=4")
    assert largest_difference(tensors(tmp_path / "one", 4), tensors(whole, 4)) < 1e-6


def test_the_merged_checkpoint_is_used_on_a_laptop(whole: Path) -> None:
    model, tokenizer = open_policy(checkpoint(whole, 4), torch.device("cpu"))
    saved = tensors(whole, 4)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert tokenizer.kind == "bytes"
    begun = initial_weights(model.config.model_copy(update={"init_from": str(whole)}))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in begun.items())


def test_one_process_goes_on_in_the_same_order(straight: Path, whole: Path) -> None:
    train_tiny(whole, *EXACT, "train.max_steps=6")
    assert_goes_on(straight, whole)


def test_nodes_in_another_order_and_a_new_one_bring_the_parts_to_each_other(
    straight: Path, apart: list[Path], tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("b", "new", "a")]
    shutil.copytree(apart[1], folders[0])
    shutil.copytree(apart[0], folders[2])
    said = trained_apart(folders, *EXACT, "train.max_steps=6")
    assert "bringing `step_00000004` to 3 of 3 nodes" in said[0]
    for folder in folders:
        assert checkpoints(folder) == [4]
        assert manifest.verify(checkpoint(folder, 4)).is_whole
    (tmp_path / "home" / "checkpoints").mkdir(parents=True)
    manifest.merge_parts([checkpoint(folder, 6) for folder in folders], checkpoint(tmp_path / "home", 6))
    assert_goes_on(straight, tmp_path / "home")


def assert_goes_on(straight: Path, out_dir: Path) -> None:
    """The last two steps were those of the run that nobody stopped."""
    assert largest_difference(tensors(straight, 6), tensors(out_dir, 6)) < 1e-6
    positions = [read_state(checkpoint(folder, 6)).stage_state for folder in (straight, out_dir)]
    assert positions[0] == positions[1]
