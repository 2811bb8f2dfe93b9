"""Weights go to transformers and come back unchanged; what is another network is refused."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from trainer.config import ModelConfig
from trainer.config.initial import of_transformers
from trainer.errors import CheckpointError
from trainer.models.gpt2_weights import from_gpt2, require_gpt2, to_gpt2
from trainer.models.model import GPT
from trainer.models.transformers_folder import read_model, read_state, write_model

CONFIG = ModelConfig(d_model=32, n_layers=2, n_heads=4, max_seq_len=16, vocab_size=67)
IDS_BT = torch.arange(32).view(2, 16)


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(5)
    model = GPT(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # biases and norms too
    return model


@pytest.mark.parametrize("other", [{}, {"bias": False}, {"qkv_bias": False}, {"tied_head": False}])
def test_transformers_loads_what_we_write_and_we_read_it_back(tmp_path: Path, other: dict[str, bool]) -> None:
    torch.manual_seed(5)
    config = CONFIG.model_copy(update=other)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    write_model(tmp_path, model.state_dict(), config)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS_BT).logits, model(IDS_BT).logits, rtol=0, atol=1e-5)
    state = read_state(tmp_path, config)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_we_load_what_transformers_writes(tmp_path: Path) -> None:
    torch.manual_seed(6)
    theirs = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=16, vocab_size=67)).eval()
    theirs.save_pretrained(tmp_path)
    config, state = read_model(tmp_path)
    ours = GPT(config).eval()
    ours.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS_BT).logits, theirs(IDS_BT).logits, rtol=0, atol=1e-5)


def test_there_and_back_changes_no_bit(model: GPT) -> None:
    state = model.state_dict()
    back = from_gpt2(to_gpt2(state, CONFIG), CONFIG)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_old_masks_and_a_missing_prefix_are_no_obstacle(model: GPT) -> None:
    gpt2 = {name.removeprefix("transformer."): tensor for name, tensor in to_gpt2(model.state_dict(), CONFIG).items()}
    gpt2["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    gpt2["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    gpt2["lm_head.weight"] = gpt2["wte.weight"].clone()
    assert from_gpt2(gpt2, CONFIG).keys() == model.state_dict().keys()


def test_an_untied_head_is_not_thrown_away(model: GPT) -> None:
    gpt2 = to_gpt2(model.state_dict(), CONFIG)
    gpt2["lm_head.weight"] = torch.zeros(67, 32)
    with pytest.raises(CheckpointError, match="differs from the token embedding"):
        from_gpt2(gpt2, CONFIG)
    untied = CONFIG.model_copy(update={"tied_head": False})
    assert not from_gpt2(gpt2, untied)["head.weight"].any()


def test_a_tied_head_may_become_one_of_its_own(model: GPT) -> None:
    state = from_gpt2(to_gpt2(model.state_dict(), CONFIG), CONFIG.model_copy(update={"tied_head": False}))
    assert torch.equal(state["head.weight"], state["token_embedding.weight"])


def test_a_bias_that_would_be_lost_is_refused(model: GPT) -> None:
    gpt2 = to_gpt2(model.state_dict(), CONFIG)
    with pytest.raises(CheckpointError, match=r"`h\.0\.attn\.c_attn\.bias` is not zero"):
        from_gpt2(gpt2, CONFIG.model_copy(update={"qkv_bias": False}))


def test_missing_and_unknown_names_are_counted_and_one_is_named(model: GPT) -> None:
    gpt2 = to_gpt2(model.state_dict(), CONFIG)
    gpt2["transformer.h.0.moe.weight"] = gpt2.pop("transformer.h.1.ln_1.bias")
    with pytest.raises(CheckpointError) as caught:
        from_gpt2(gpt2, CONFIG)
    assert caught.value.why == "1 missing (`h.1.ln_1.bias`), 1 unknown (`h.0.moe.weight`)"


@pytest.mark.parametrize(
    ("key", "value"),
    [("activation_function", "gelu"), ("layer_norm_epsilon", 1e-6), ("model_type", "llama"), ("n_inner", 100)],
)
def test_another_network_is_refused_by_its_configuration(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"x: `{key}` is"):
        require_gpt2({key: value}, source="x")


def test_the_published_configuration_is_gpt2() -> None:
    published = GPT2Config().to_dict()
    require_gpt2(published, source="x")
    config = ModelConfig(**of_transformers(published))
    assert config == ModelConfig(d_model=768, n_layers=12, n_heads=12, max_seq_len=1024, vocab_size=50257)


def test_the_exported_configuration_says_where_a_text_ends(tmp_path: Path, model: GPT) -> None:
    write_model(tmp_path, model.state_dict(), CONFIG, eot_id=66)
    assert GPT2LMHeadModel.from_pretrained(tmp_path).config.eos_token_id == 66


@pytest.mark.parametrize("damage", ["config missing", "config no JSON", "weights cut"])
def test_a_broken_folder_is_one_clear_error(tmp_path: Path, model: GPT, damage: str) -> None:
    write_model(tmp_path, model.state_dict(), CONFIG)
    if damage == "config missing":
        (tmp_path / "config.json").unlink()
    elif damage == "config no JSON":
        (tmp_path / "config.json").write_text("{")
    else:
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="no model can be read") as caught:
        read_model(tmp_path)
    assert caught.value.hint
