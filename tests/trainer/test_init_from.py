"""Weights of others to begin with: whatever fits is taken exactly, whatever does not is named."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.trainer.tiny import checkpoint, tiny_config, train_tiny, weights
from trainer.config import ConfigError, ModelConfig, run_config
from trainer.errors import CheckpointError
from trainer.models.build import build_model
from trainer.models.init_from import initial_weights
from trainer.models.transformers_folder import write_model

SHAPE = {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 32, "vocab_size": 257}
IDS_BT = torch.arange(64).view(2, 32)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 that transformers wrote."""
    torch.manual_seed(6)
    folder = tmp_path_factory.mktemp("theirs")
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 257}
    GPT2LMHeadModel(GPT2Config(**settings, bos_token_id=256, eos_token_id=256)).save_pretrained(folder)
    return folder


def logits(config: ModelConfig, state: dict[str, torch.Tensor]) -> torch.Tensor:
    model = build_model(config).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        result: torch.Tensor = model(IDS_BT).logits
    return result


def wanted_of(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = GPT2LMHeadModel.from_pretrained(folder).eval()(IDS_BT).logits
    return result


def test_a_folder_of_transformers_fills_in_its_own_shape(theirs: Path) -> None:
    config = ModelConfig(init_from=str(theirs))
    assert (config.d_model, config.n_layers, config.max_seq_len, config.vocab_size) == (32, 2, 32, 257)
    torch.testing.assert_close(logits(config, initial_weights(config)), wanted_of(theirs), rtol=0, atol=1e-5)


def test_weights_in_a_bin_and_in_several_files_are_read_too(theirs: Path, tmp_path: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(theirs)
    config = ModelConfig(init_from=str(tmp_path / "bin"), **SHAPE)
    for name in ("bin", "parts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text((theirs / "config.json").read_text())
    state = model.state_dict()
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    torch.testing.assert_close(logits(config, initial_weights(config)), wanted_of(theirs), rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert (tmp_path / "parts" / "model.safetensors.index.json").is_file()
    config = ModelConfig(init_from=str(tmp_path / "parts"))
    torch.testing.assert_close(logits(config, initial_weights(config)), wanted_of(theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu2", "swiglu"])
def test_a_modern_folder_fills_in_its_shape_and_its_weights(tmp_path: Path, activation: str) -> None:
    made = ModelConfig.model_validate({**SHAPE, "arch": "modern", "activation": activation, "tied_head": False})
    torch.manual_seed(1)
    model = build_model(made).eval()
    write_model(tmp_path, model.state_dict(), made)
    config = ModelConfig(init_from=str(tmp_path))
    assert (config.arch, config.activation, config.tied_head, config.bias) == ("modern", activation, False, False)
    with torch.no_grad():
        torch.testing.assert_close(logits(config, initial_weights(config)), model(IDS_BT).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("network", [[], ["model.arch=modern", "optim.kind=muon", "model.tied_head=false"]])
def test_a_run_of_ours_begins_another_with_exactly_its_weights(tmp_path: Path, network: list[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    short = ["train.max_steps=2", "schedule.warmup_steps=1", "eval.every_steps=2", *network]
    train_tiny(first, *short)
    frozen = ["train.max_steps=1", "schedule.warmup_steps=0", "optim.lr=1e-30", "optim.matrix_lr=1e-30"]
    train_tiny(second, *short, *frozen, f"model.init_from={first}")
    was, became = weights(first, 2), weights(second, 1)
    assert was.keys() == became.keys()
    assert all(torch.equal(was[name], became[name]) for name in was)


def test_a_resumed_run_does_not_begin_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train_tiny(first, "train.max_steps=2", "schedule.warmup_steps=1")
    train_tiny(second, "train.max_steps=4", f"model.init_from={first}")
    for file in checkpoint(first, 2).iterdir():  # what it began with is gone meanwhile
        if file.is_file():
            file.unlink()
    outcome = train_tiny(second, "train.max_steps=6", f"model.init_from={first}")
    assert outcome.step == 6


@pytest.mark.parametrize(
    ("other", "words", "hint"),
    [
        ({"d_model": 48}, "`model.d_model` is 32 there, 48 here", "`model.d_model=32`"),
        ({"n_layers": 3, "d_model": 48}, "`model.d_model` is 32 there, 48 here", "`model.d_model=32`"),
        ({"vocab_size": 300}, "`model.vocab_size` is 257 there, 300 here", "`model.vocab_size=257`"),
        ({"max_seq_len": 64}, "`model.max_seq_len` is 32 there, 64 here", "positions it never learned"),
        ({"arch": "modern"}, "`model.arch` is gpt2 there, modern here", "`model.arch=gpt2`"),
    ],
)
def test_the_first_difference_of_shape_is_named(theirs: Path, other: dict[str, object], words: str, hint: str) -> None:
    config = ModelConfig.model_validate({**SHAPE, "init_from": str(theirs), **other})
    with pytest.raises(CheckpointError, match=words) as caught:
        initial_weights(config)
    assert hint in caught.value.hint


def test_a_tensor_of_another_shape_than_the_configuration_says_is_named(theirs: Path, tmp_path: Path) -> None:
    settings = json.loads((theirs / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "n_positions": 16}))
    (tmp_path / "model.safetensors").write_bytes((theirs / "model.safetensors").read_bytes())
    config = ModelConfig(init_from=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"`position_embedding.weight` is 32 x 32 there, 16 x 32 here"):
        initial_weights(config)


def test_another_tokenizer_is_refused(finished_run: Path) -> None:
    config = ModelConfig(init_from=str(finished_run))
    with pytest.raises(CheckpointError, match="trained with another tokenizer") as caught:
        initial_weights(config, tokenizer_identity="0" * 64)
    assert "data.tokenizer.path=" in caught.value.hint


def test_a_broken_checkpoint_is_refused(finished_run: Path) -> None:
    file = checkpoint(finished_run, 12) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is broken"):
        initial_weights(ModelConfig(init_from=str(finished_run)))


def test_another_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="holds another network"):
        initial_weights(ModelConfig(init_from=str(tmp_path)))


def test_a_name_that_is_nothing_is_refused_before_any_download() -> None:
    with pytest.raises(CheckpointError, match="no name of the hub"):
        initial_weights(ModelConfig(init_from="no/such/folder"))


def test_without_a_network_the_hub_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="`gpt2` could not be brought from the hub") as caught:
        initial_weights(ModelConfig(init_from="gpt2"))
    assert "model.init_from=DIR" in caught.value.hint


def test_gpt2_by_name_has_the_published_shape_before_any_download() -> None:
    config = run_config({"model": {"init_from": "openai-community/gpt2-medium"}}, source="x").model
    assert (config.d_model, config.n_layers, config.n_heads, config.vocab_size) == (1024, 24, 16, 50257)


def test_rows_longer_than_the_positions_are_refused(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than the positions"):
        tiny_config(tmp_path, f"model.init_from={theirs}", "data.seq_len=33")
