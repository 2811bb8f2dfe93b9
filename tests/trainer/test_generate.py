"""Sampling: the same for the same seed, right past the last position, and invisible to training."""

from __future__ import annotations

import pytest
import torch

from trainer.config import ModelConfig
from trainer.models.generate import generate, sampled_id
from trainer.models.model import GPT

CONFIG = ModelConfig(d_model=32, n_layers=2, n_heads=2, max_seq_len=16, vocab_size=53)


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(2)
    model = GPT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return model


def greedy_without_cache(model: GPT, ids: list[int], limit: int, max_tokens: int) -> list[int]:
    """The rule in plain words: full forward over the window; when it is full, only its newest half stays."""
    window, new = ids[-limit:], []
    for _ in range(max_tokens):
        with torch.no_grad():
            new.append(int(model(torch.tensor([window])).logits[0, -1].argmax()))
        text = [*ids, *new]
        window = text[-(limit // 2) :] if len(window) == limit else [*window, new[-1]]
    return new


def test_temperature_zero_takes_the_likeliest_also_past_the_last_position(model: GPT) -> None:
    model.eval()
    for prompt in ([1], list(range(10)), list(range(16)), list(range(30))):
        wanted = greedy_without_cache(model, prompt, 16, 40)
        assert generate(model, prompt, max_tokens=40, temperature=0) == wanted


def test_the_seed_decides_the_text(model: GPT) -> None:
    texts = [generate(model, [1, 2], max_tokens=12, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("training", [True, False])
def test_training_does_not_notice(model: GPT, training: bool) -> None:
    model.train(training)
    before = torch.get_rng_state()
    generate(model, [1], max_tokens=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training == training
    assert torch.is_grad_enabled()


def test_dropout_is_off_while_sampling(model: GPT) -> None:
    dropping = GPT(CONFIG.model_copy(update={"dropout": 0.9}))
    dropping.load_state_dict(model.state_dict())
    assert generate(dropping, [1], max_tokens=8, seed=3) == generate(model, [1], max_tokens=8, seed=3)


def test_it_ends_before_the_stop_id(model: GPT) -> None:
    text = generate(model, [5], max_tokens=20, temperature=0)
    stop_id = text[7]
    assert generate(model, [5], max_tokens=20, temperature=0, stop_id=stop_id) == text[: text.index(stop_id)]


def test_the_mode_comes_back_even_when_sampling_fails(model: GPT) -> None:
    model.train()
    with pytest.raises(IndexError):
        generate(model, [10_000], max_tokens=1)
    assert model.training


@pytest.mark.parametrize(
    ("top_k", "top_p", "possible"),
    [(1, 1.0, {0}), (2, 1.0, {0, 1}), (0, 0.3, {0}), (0, 0.6, {0, 1}), (0, 1.0, {0, 1, 2, 3}), (3, 0.6, {0, 1})],
)
def test_top_k_and_top_p_limit_the_choice(top_k: int, top_p: float, possible: set[int]) -> None:
    logits_V = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = {sampled_id(logits_V, 1.0, top_k, top_p, generator) for _ in range(300)}
    assert drawn == possible


def test_temperature_is_a_power_of_the_odds() -> None:
    logits_V = torch.tensor([0.75, 0.25]).log()
    generator = torch.Generator().manual_seed(0)
    share = sum(sampled_id(logits_V, 0.5, 0, 1.0, generator) == 0 for _ in range(2000)) / 2000
    assert share == pytest.approx(0.9, abs=0.02)  # 3² : 1


def test_it_works_under_bf16_autocast(model: GPT) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert len(generate(model, [1, 2, 3], max_tokens=20)) == 20
