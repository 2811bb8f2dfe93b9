"""RunConfig: what is accepted, and what a user reads where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.config import ConfigError, RunConfig, dump_yaml, parse_yaml, run_config


def complaint(config: Any, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        run_config(config, source="train.yaml", overrides=overrides)
    return "\n".join(map(str, caught.value.problems))


def test_no_configuration_is_a_configuration() -> None:
    assert run_config(None, source="t") == RunConfig()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"optim": {"lrr": 1.0}}, "train.yaml: optim.lrr: unknown key (did you mean `lr`?)"),
        ({"optimizer": {}}, "train.yaml: optimizer: unknown key (did you mean `optim`?)"),
        ({"optim": {"lr": "3e-4"}}, "optim.lr: `'3e-4'` is not a number: it is text, write it without quotes"),
        ({"optim": {"lr": 0.0}}, "optim.lr: `0.0` is not allowed: should be greater than 0"),
        ({"train": {"max_steps": 2.5}}, "train.max_steps: `2.5` is not a whole number"),
        ({"train": {"max_steps": True}}, "train.max_steps: `true` is not a whole number"),
        ({"train": {"compile": "no"}}, "train.compile: `'no'` is not `true` or `false`"),
        ({"train": 3}, "train.yaml: train: `3` is not a mapping of keys to values"),
        ([1], "train.yaml: must be a mapping of keys to values, not `[1]`"),
        ({"model": {"preset": "gpt2-medum"}}, "(did you mean `gpt2-medium`?)"),
        ({"model": {"d_model": 100, "n_heads": 3}}, "d_model 100 is not a multiple of n_heads 3"),
        ({"data": {"tokenizer": {"kind": "bytes", "vocab_size": 300}}}, "the `bytes` tokenizer has 257 tokens"),
        ({"model": {"vocab_size": 100}}, "model.vocab_size 100 is smaller than the vocabulary"),
        ({"train": {"global_batch_size": 10, "micro_batch_size": 4}}, "10 is not a multiple of"),
        ({"train": {"max_steps": 100}, "schedule": {"warmup_steps": 100}}, "leaves nothing of"),
    ],
)
def test_a_mistake_is_named_with_its_place_its_value_and_what_is_allowed(config: Any, expected: str) -> None:
    assert expected in complaint(config)


def test_every_mistake_is_named_at_once() -> None:
    text = complaint({"optim": {"lr": "x", "beta3": 1}, "train": {"max_steps": -1}})
    assert [place in text for place in ("optim.lr:", "optim.beta3:", "train.max_steps:")] == [True] * 3


def test_a_mistake_in_an_override_names_the_override() -> None:
    assert "train.yaml with optim.lr=fast: optim.lr: `'fast'` is not a number" in complaint({}, "optim.lr=fast")


def test_of_many_overrides_only_those_about_the_mistake_are_named() -> None:
    many = ("train.max_steps=50", "optim.lr=fast", "out_dir=runs/a")
    assert complaint({}, *many).startswith("train.yaml with optim.lr=fast: optim.lr: ")
    assert complaint({"optim": {"lr": "fast"}}, "out_dir=runs/a").startswith("train.yaml: optim.lr: ")
    together = complaint({}, "train.max_steps=50", "out_dir=runs/a")
    assert together.startswith("train.yaml with train.max_steps=50: schedule.warmup_steps 100 leaves nothing")
    below = complaint({}, "data.datasets={c4: 0.5}", "out_dir=runs/a")
    assert below.startswith("train.yaml with data.datasets={c4: 0.5}: data: the weights sum to 0.5")


def test_a_preset_fills_sizes_and_what_stands_beside_it_wins() -> None:
    model = run_config({"model": {"preset": "gpt2-medium", "n_layers": 2}}, source="t").model
    assert (model.d_model, model.n_layers, model.n_heads) == (1024, 2, 16)


@pytest.mark.parametrize(
    ("tokenizer", "vocab_size"),
    [({"kind": "bytes"}, 257), ({"kind": "gpt2"}, 50257), ({"kind": "bpe", "vocab_size": 1000}, 1000)],
)
def test_the_vocabulary_is_the_tokenizers_unless_it_is_said(tokenizer: Any, vocab_size: int) -> None:
    config = {"data": {"tokenizer": tokenizer}}
    assert run_config(config, source="t").model.vocab_size == vocab_size
    assert run_config({**config, "model": {"vocab_size": 50304}}, source="t").model.vocab_size == 50304


def test_the_resolved_configuration_survives_being_written_and_read() -> None:
    config = run_config({"data": {"tokenizer": {"kind": "bpe"}}}, source="t", overrides=["optim.lr=3e-4"])
    assert run_config(parse_yaml(dump_yaml(config.model_dump(mode="json")), "t"), source="t") == config


def test_every_field_says_what_it_is() -> None:
    def undescribed(schema: dict[str, Any]) -> list[str]:
        sections = schema["$defs"].items()
        return [f"{name}.{key}" for name, s in sections for key, f in s["properties"].items() if "description" not in f]

    # These say everything by their names.
    assert set(undescribed(RunConfig.model_json_schema())) <= {
        "OptimConfig.beta1", "OptimConfig.beta2", "OptimConfig.eps", "EvalConfig.every_steps",
        "SampleConfig.prompt", "SampleConfig.max_tokens", "SampleConfig.top_p", "SampleConfig.seed",
    }  # fmt: skip
