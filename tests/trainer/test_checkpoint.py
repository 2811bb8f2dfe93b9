"""A checkpoint is whole or invisible, holds no code, and what is kept is what was promised."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainer.tiny import (
    ROOT,
    TINY,
    checkpoint,
    checkpoints,
    rows,
    tensors,
    tiny_config,
    train_tiny,
    weights,
)
from trainer import manifest
from trainer.checkpoints.checkpoint import TrainState, read_state, write_checkpoint
from trainer.checkpoints.snapshot import Camera, optimizer_tensors
from trainer.config import TokenizerConfig
from trainer.errors import CheckpointError
from trainer.loop.optim import make_optimizer
from trainer.loop.random_state import random_state
from trainer.models.model import GPT
from trainer.models.policies import find_checkpoint, open_policy
from trainer.tokenizer import open_tokenizer


def state_of(step: int) -> TrainState:
    return TrainState(
        step=step,
        tokens=1,
        stage="pretrain",
        stage_state={"next_sample": 8},
        random=[random_state(torch.device("cpu"))],
        scaler=None,
        val_loss=None,
        best_val_loss=None,
        best_step=None,
        tokenizer="",
        config_sha256="",
    )


def test_a_checkpoint_has_these_files_and_each_is_in_its_manifest(finished_run: Path) -> None:
    folder = checkpoint(finished_run, 12)
    found = manifest.verify(folder)
    expected = {
        "model.safetensors",
        "optimizer.safetensors",
        "train_state.json",
        "config.yaml",
        "tokenizer/identity.json",
    }
    assert set(found.files) == expected


def test_every_weight_is_there_once_under_the_bare_models_name(finished_run: Path) -> None:
    config = tiny_config(finished_run)
    expected = dict(GPT(config.model).named_parameters())
    assert set(weights(finished_run, 12)) == set(expected)
    kinds = ("exp_avg", "exp_avg_sq", "step")
    assert set(tensors(finished_run, 12)) == set(expected) | {f"{name}.{kind}" for name in expected for kind in kinds}


def test_the_position_in_the_data_is_one_integer(finished_run: Path) -> None:
    state = read_state(checkpoint(finished_run, 8))
    assert state.stage_state["next_sample"] == 8 * 8
    assert state.tokens == 8 * 8 * 32
    assert len(state.random) == 1


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    # The rate is far too high, so validation is best early and the best one would have rotated away.
    eager = ("checkpoint.every_steps=1", "checkpoint.keep_last=2", "eval.every_steps=1", "train.max_steps=8")
    train_tiny(tmp_path, "optim.lr=0.5", "schedule.warmup_steps=0", *eager)
    losses = {row["step"]: row["val_loss"] for row in rows(tmp_path) if "val_loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert checkpoints(tmp_path) == sorted({best, 7, 8})
    assert read_state(checkpoint(tmp_path, 8)).best_step == best


def test_what_a_killed_training_left_half_built_is_swept_at_the_next_start(tmp_path: Path) -> None:
    train_tiny(tmp_path, "train.max_steps=4")
    half = tmp_path / "checkpoints" / "step_00000008.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    train_tiny(tmp_path, "train.max_steps=5")
    assert not half.exists()
    assert checkpoints(tmp_path) == [4, 5]


class FullDiskTokenizer:
    """A tokenizer whose files do not fit: the kernel's own `No space left on device`."""

    def save(self, folder: Path) -> None:
        with open("/dev/full", "w") as file:
            file.write("x")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_while_writing_leaves_nothing_and_is_named(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    model = GPT(config.model)
    snapshot = Camera().snapshot(model, make_optimizer(model, config.optim))
    assert snapshot is not None
    bytes_tokenizer = open_tokenizer(TokenizerConfig(kind="bytes"))
    write_checkpoint(tmp_path, state_of(1), snapshot, config=config, tokenizer=bytes_tokenizer)
    with pytest.raises(CheckpointError) as caught:
        write_checkpoint(tmp_path, state_of(2), snapshot, config=config, tokenizer=FullDiskTokenizer())  # type: ignore[arg-type]
    assert caught.value.why == "the disk is full"
    assert "step_00000002.tmp" in caught.value.what
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001"]


def may_mount() -> bool:
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(probe, capture_output=True, check=False).returncode == 0


def test_a_real_disk_that_fills_up_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    if not may_mount():
        pytest.skip("this machine allows no private mounts")
    out_dir, result = tmp_path / "small disk", tmp_path / "result"
    out_dir.mkdir()
    config = tmp_path / "train.yaml"
    config.write_text(json.dumps({**TINY, "out_dir": str(out_dir)}))
    shards = tmp_path / "shards"
    prepare = [sys.executable, "-m", "trainer", "prepare", "--config", str(config), "--out", str(shards)]
    subprocess.run(prepare, cwd=ROOT, check=True, capture_output=True)
    train = (
        'mount -t tmpfs -o size=21m tmpfs "$1" && shift && out=$1 && shift && "$@" > "$out.log" 2>&1; '
        'echo $? > "$out"; cp -r "$0/checkpoints" "$out.checkpoints"'
    )
    arguments = ["checkpoint.every_steps=1", "checkpoint.keep_last=100", "train.max_steps=100", f"data.path={shards}"]
    command = [sys.executable, "-m", "trainer", "pretrain", "--config", str(config), *arguments]
    subprocess.run(["unshare", "-rm", "sh", "-c", train, out_dir, out_dir, result, *command], cwd=ROOT, check=True)
    log = (tmp_path / "result.log").read_text()
    assert result.read_text().strip() == "4", log
    assert "has no room for a checkpoint" in log
    assert "Traceback" not in log
    kept = tmp_path / "result.checkpoints"
    assert len(manifest.checkpoints(kept)) > 2
    assert all(manifest.verify(path) for path in manifest.checkpoints(kept))
    assert not list(kept.glob("*.tmp"))


def test_the_loss_scale_comes_back_as_it_was() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    state = state_of(1).model_copy(update={"scaler": scaler.state_dict()})
    read = TrainState.model_validate_json(state.model_dump_json())
    assert read == state
    assert {name: type(value) for name, value in (read.scaler or {}).items()} == {
        name: type(value) for name, value in scaler.state_dict().items()
    }


def test_the_optimizer_of_another_model_is_refused(finished_run: Path) -> None:
    from trainer.checkpoints.checkpoint import load_tensors

    config = tiny_config(finished_run, "model.n_layers=1")
    model = GPT(config.model)
    with pytest.raises(CheckpointError, match="do not fit the model"):
        load_tensors(checkpoint(finished_run, 12), model, make_optimizer(model, config.optim))


def test_an_optimizer_without_steps_has_no_tensors(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    model = GPT(config.model)
    assert optimizer_tensors(model, make_optimizer(model, config.optim)) == {}


def test_a_state_of_another_version_is_an_error_that_names_the_field(finished_run: Path) -> None:
    path = checkpoint(finished_run, 12) / "train_state.json"
    state = json.loads(path.read_text())
    del state["tokens"]
    path.write_text(json.dumps(state))
    with pytest.raises(CheckpointError) as caught:
        read_state(path.parent)
    assert "tokens" in caught.value.why


def test_a_checkpoint_is_found_by_its_own_its_runs_and_its_folders_name(finished_run: Path) -> None:
    newest = checkpoint(finished_run, 12)
    assert find_checkpoint(finished_run) == find_checkpoint(finished_run / "checkpoints") == newest
    assert find_checkpoint(checkpoint(finished_run, 8)) == checkpoint(finished_run, 8)
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        find_checkpoint(finished_run / "data")


def test_a_policy_comes_back_with_its_tokenizer_and_not_from_a_broken_checkpoint(finished_run: Path) -> None:
    model, tokenizer = open_policy(checkpoint(finished_run, 12), torch.device("cpu"))
    assert not model.training
    assert torch.equal(model.state_dict()["final_norm.weight"], weights(finished_run, 12)["final_norm.weight"])
    assert tokenizer.kind == "bytes"
    (checkpoint(finished_run, 12) / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="is broken"):
        open_policy(checkpoint(finished_run, 12), torch.device("cpu"))


@pytest.mark.parametrize("name", ["with space", "a'; echo foo; '", "$(echo x)", 'quo"te', "new\nline"])
def test_a_folder_of_any_name_will_do(tmp_path: Path, name: str) -> None:
    outcome = train_tiny(tmp_path / name, "train.max_steps=3")
    assert outcome.checkpoint == checkpoint(tmp_path / name, 3)
    train_tiny(tmp_path / name, "train.max_steps=4")
    assert checkpoints(tmp_path / name) == [3, 4]
