"""Recipes by name: what they say, and that a configuration may say otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import ConfigError, RunConfig, run_config
from trainer.config.presets import RUN_PRESETS
from trainer.loop.start import run_stage
from trainer.sizing import num_parameters

SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"


def resolved(*overrides: str, **config: object) -> RunConfig:
    return run_config(config, source="x", overrides=overrides)


def test_what_is_written_beside_a_preset_wins_key_by_key() -> None:
    config = resolved("optim.lr=0.5", preset="shakespeare-char", train={"max_steps": 10}, schedule={"warmup_steps": 1})
    assert (config.optim.lr, config.train.max_steps) == (0.5, 10)
    assert (config.optim.kind, config.train.global_batch_size) == ("muon", 12)
    assert config.data.tokenizer.kind == "bytes"


def test_a_preset_may_be_overridden_down_to_the_tokenizer() -> None:
    config = resolved("data.tokenizer.kind=bpe", "data.tokenizer.vocab_size=300", preset="shakespeare-char")
    assert (config.data.tokenizer.kind, config.model.vocab_size) == ("bpe", 300)


def test_a_resolved_recipe_is_the_same_when_it_is_read_again() -> None:
    for name in RUN_PRESETS:
        config = resolved(preset=name)
        assert run_config(config.model_dump(mode="json"), source="again") == config


def test_the_small_recipe_has_the_size_it_is_compared_at() -> None:
    ours, nanogpt = resolved(preset="shakespeare-char").model, resolved(preset="shakespeare-char-gpt2").model
    for model in (ours, nanogpt):
        assert (model.d_model, model.n_layers, model.n_heads, model.max_seq_len) == (128, 4, 4, 64)
    characters = nanogpt.model_copy(update={"vocab_size": 65})
    assert num_parameters(characters) == 804_096


def test_nanogpts_recipe_is_the_published_one() -> None:
    config = resolved(preset="shakespeare-char-gpt2")
    assert (config.train.max_steps, config.train.global_batch_size) == (2000, 12)
    assert (config.optim.lr, config.optim.beta2, config.optim.grad_clip) == (1e-3, 0.99, 1.0)
    assert (config.schedule.warmup_steps, config.schedule.min_lr_ratio) == (100, 0.1)


def test_the_small_recipe_is_after_40_steps_where_nanogpts_is_after_250(tmp_path: Path) -> None:
    if not SHAKESPEARE.exists():
        pytest.skip(f"{SHAKESPEARE} is not there")
    given = (f"data.path={SHAKESPEARE}", f"out_dir={tmp_path}", "train.max_steps=40", "train.precision=fp32")
    outcome = run_stage("pretrain", resolved(*given, "eval.num_batches=40", preset="shakespeare-char"))
    assert outcome.val_loss is not None
    assert outcome.val_loss < 2.4447  # nanoGPT's CPU recipe at 250 steps, of 65 characters


def test_an_unknown_preset_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean `shakespeare-char`"):
        resolved(preset="shakespear-char")


def test_a_size_may_be_taken_from_a_preset_and_changed() -> None:
    config = resolved("model.preset=gpt2", "model.n_layers=6", "model.dropout=0.1").model
    assert (config.d_model, config.n_layers, config.dropout) == (768, 6, 0.1)
