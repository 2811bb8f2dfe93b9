"""Two ranks, whole or each with a part of the weights: the same training, no needless traffic, the same checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.ragged import RaggedStage
from tests.trainer.tiny import ROOT, assert_same_run, checkpoint, largest_difference, rows, tiny_config
from tests.trainer.two_ranks import RUN, STEPS, SharedStage, Training, learnt
from trainer import manifest
from trainer.checkpoints.checkpoint import read_weights
from trainer.config import TrainConfig
from trainer.console import Console
from trainer.errors import EngineError
from trainer.loop.distributed import opened_world
from trainer.loop.engine import train
from trainer.loop.wrapping import wrapped
from trainer.models.model import GPT

WAYS = ("ddp", "fsdp")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two_ranks.py left behind."""
    folder = tmp_path_factory.mktemp("two_ranks")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*start, "-m", "tests.trainer.two_ranks", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def found(together: Path) -> list[dict[str, Any]]:
    """By rank, what it saw."""
    ranks: list[dict[str, Any]] = json.loads((together / "found.json").read_text())
    return ranks


@pytest.mark.parametrize("way", WAYS)
def test_gradients_travel_once_a_step_however_many_micro_batches_it_has(found: list[dict[str, Any]], way: str) -> None:
    for rank in found:
        with_one, with_four = rank[way]["reductions"]
        assert with_one == with_four > 0


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_is_not_finite_on_one_rank_changes_nothing_on_any(found: list[dict[str, Any]], way: str) -> None:
    finite_and_changed = [[True, True], [False, False], [True, True]]
    assert [rank[way]["finite"] for rank in found] == [finite_and_changed, finite_and_changed]


def test_a_rank_without_validation_rows_keeps_nobody_waiting(found: list[dict[str, Any]]) -> None:
    losses = [rank[way]["val_loss"] for rank in found for way in WAYS]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_learn_what_one_process_does(together: Path, tmp_path: Path, way: str) -> None:
    config = tiny_config(tmp_path, "model.dropout=0")
    with opened_world(config.train) as world:
        alone = Training(config, world, SharedStage(0, 1))
        for _ in range(STEPS):
            alone.step(8)
    assert largest_difference(load_file(together / f"{way}.safetensors"), alone.weights()) < 1e-6


def test_a_sharded_run_in_pieces_is_the_straight_one_to_the_bit(together: Path) -> None:
    assert_same_run(together / "8", together / "4x8", 8)


@pytest.mark.parametrize("name", ["whole_first", "pieces_first"])
def test_a_run_goes_on_to_the_bit_from_either_form_of_checkpoint(together: Path, name: str) -> None:
    forms = [(checkpoint(together / name, step) / "model").is_dir() for step in (4, 8)]
    assert forms == ([False, True] if name == "whole_first" else [True, False])
    assert_same_run(together / "8", together / name, 8)


def test_what_one_rank_could_not_write_is_told_to_all_and_leaves_nothing(
    together: Path, found: list[dict[str, Any]]
) -> None:
    assert "File too large" in found[1]["full"]
    assert found[0]["full"] == found[1]["full"]
    assert list((together / "full" / "checkpoints").iterdir()) == []


def test_processes_that_were_told_different_things_do_not_begin(found: list[dict[str, Any]]) -> None:
    for rank in found:
        same, other_seed, other_folder = rank["alike"]
        assert same == other_folder == ""
        assert "process 1, on node 0, would not train what process 0 does" in other_seed
        assert "why:   `seed` is 1 there, 1337 here" in other_seed


def test_a_node_that_lacks_the_newest_sound_checkpoint_gets_it(found: list[dict[str, Any]]) -> None:
    assert [rank["shared"] for rank in found] == [[["step_00000004"]] * 2] * 2


def test_muon_steps_spread_matrices_as_it_steps_whole_ones(found: list[dict[str, Any]]) -> None:
    assert [rank["muon"] for rank in found] == pytest.approx([0, 0], abs=1e-6)


def test_a_sharded_run_with_muon_in_pieces_is_the_straight_one_to_the_bit(together: Path) -> None:
    assert_same_run(together / "muon", together / "muon_pieces", 8)


def test_every_rank_writes_its_pieces_and_nothing_in_a_checkpoint_is_code(together: Path) -> None:
    folder = checkpoint(together / "8", 8)
    files = set(manifest.verify(folder).files)
    pieces = {f"{kind}/rank_0000{rank}.safetensors" for kind in ("model", "optimizer") for rank in (0, 1)}
    assert files == pieces | {"train_state.json", "config.yaml", "tokenizer/identity.json"}
    sizes = [(folder / "optimizer" / f"rank_0000{rank}.safetensors").stat().st_size for rank in (0, 1)]
    assert max(sizes) < 1.5 * min(sizes)


def test_a_sharded_checkpoint_is_whole_and_one_process_goes_on_from_it(
    together: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = read_weights(checkpoint(together / "8", 8))
    config = tiny_config(together / "8", *RUN, "train.max_steps=9", "train.parallel=ddp")
    assert {name: tensor.shape for name, tensor in saved.items()} == {
        name: tensor.shape for name, tensor in GPT(config.model).state_dict().items()
    }
    with opened_world(config.train) as world:
        assert train(config, RaggedStage(1), world, Console()).step == 9
    assert "2 processes became 1" in capsys.readouterr().out
    samples = [row["sample"] for row in rows(together / "8") if "sample" in row]
    assert len(samples) == 2


def test_activation_checkpointing_changes_no_bit_dropout_included(tmp_path: Path) -> None:
    weights = []
    for recomputed in ("false", "true"):
        config = tiny_config(tmp_path, "model.dropout=0.2", f"train.activation_checkpointing={recomputed}")
        with opened_world(config.train) as world:
            weights.append(learnt(config, world))
    plain, recomputing = weights
    assert [name for name in plain if not torch.equal(plain[name], recomputing[name])] == []


def test_activation_checkpointing_keeps_the_names_and_saves_memory(tmp_path: Path) -> None:
    saved = []
    for recomputed in (False, True):
        config = tiny_config(tmp_path)
        model = GPT(config.model)
        names = list(model.state_dict())
        with opened_world(config.train) as world:
            policy = wrapped(model, world, TrainConfig(activation_checkpointing=recomputed))
            assert list(model.state_dict()) == names
            saved.append(kept_for_backward(policy))
    plain, recomputing = saved
    assert recomputing < plain / 2


def kept_for_backward(policy: torch.nn.Module) -> int:
    """Numbers that a forward leaves for its backward."""
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    ids = torch.zeros(4, 32, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy(ids, ids)
    return sum(kept)


def test_one_process_has_nothing_to_shard_and_trains(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, *RUN, "train.max_steps=3", "train.parallel=fsdp")
    with opened_world(config.train) as world:
        assert train(config, RaggedStage(1), world, Console()).step == 3


def test_a_stage_that_samples_from_its_policy_is_not_sharded() -> None:
    from trainer.loop.start import cannot_sample

    error = cannot_sample("grpo")
    assert isinstance(error, EngineError)
    assert error.hint == "train.parallel=ddp"
