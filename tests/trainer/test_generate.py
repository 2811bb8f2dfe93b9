"""Sampling: the same for the same seed, right past the last position, and invisible to training."""

from __future__ import annotations

import pytest
import torch

from trainer.config import ModelConfig
from trainer.models.generate import generate, generate_batch, stream
from trainer.models.model import GPT
from trainer.models.sampling import Sampling, sampled_ids, uniforms

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


def drawn_ids(logits_V: torch.Tensor, sampling: Sampling, times: int) -> list[int]:
    draws_B = uniforms(sampling.seed, range(times), [0])
    ids: list[int] = sampled_ids(logits_V.expand(times, -1), sampling, draws_B).tolist()
    return ids


@pytest.mark.parametrize(
    ("top_k", "top_p", "possible"),
    [(1, 1.0, {0}), (2, 1.0, {0, 1}), (0, 0.3, {0}), (0, 0.6, {0, 1}), (0, 1.0, {0, 1, 2, 3}), (3, 0.6, {0, 1})],
)
def test_top_k_and_top_p_limit_the_choice(top_k: int, top_p: float, possible: set[int]) -> None:
    logits_V = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert set(drawn_ids(logits_V, Sampling(1.0, top_k, top_p), 300)) == possible


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (2, 1.0), (0, 0.9999)])
def test_temperature_is_a_power_of_the_odds(top_k: int, top_p: float) -> None:
    logits_V = torch.tensor([0.25, 0.75]).log()
    ids = drawn_ids(logits_V, Sampling(0.5, top_k, top_p), 4000)
    assert ids.count(1) / 4000 == pytest.approx(0.9, abs=0.02)  # 3² : 1


def test_an_id_that_cannot_be_is_never_drawn_however_the_draw_falls() -> None:
    logits_BV = torch.tensor([[0.0, float("-inf"), 0.0, float("-inf")]])
    almost_one = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    assert sampled_ids(logits_BV, Sampling(), almost_one).tolist() == [2]
    assert sampled_ids(logits_BV, Sampling(), torch.zeros(1, dtype=torch.float64)).tolist() == [0]


PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], list(range(20, 40))]
"""The last one is longer than the model has positions."""


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_in_a_batch_is_what_it_is_alone(model: GPT, temperature: float) -> None:
    sampling = Sampling(temperature, seed=5)
    together = generate_batch(model, PROMPTS, max_tokens=24, sampling=sampling, stop_ids=[11, 12])
    for row, found in enumerate(together):
        padded = [[1]] * row  # the draws are those of the row's number
        alone = generate_batch(model, [*padded, PROMPTS[row]], max_tokens=24, sampling=sampling, stop_ids=[11, 12])
        assert (found.ids, found.stop_id) == (alone[row].ids, alone[row].stop_id)
    assert any(found.stop_id is not None for found in together) or temperature == 0


def test_log_probabilities_are_those_of_a_forward_at_the_temperature(model: GPT) -> None:
    model.eval()
    found = generate_batch(
        model, PROMPTS[:3], max_tokens=8, sampling=Sampling(0.7, seed=1), stop_ids=[3], with_logps=True
    )
    for prompt, each in zip(PROMPTS, found, strict=False):
        drawn = [*each.ids, *([each.stop_id] if each.stop_id is not None else [])]
        with torch.no_grad():
            logits_TV = model(torch.tensor([[*prompt, *drawn]])).logits[0, len(prompt) - 1 : -1]
        wanted = (logits_TV / 0.7).log_softmax(-1).gather(-1, torch.tensor(drawn)[:, None]).squeeze(-1)
        assert torch.allclose(torch.tensor(each.logps), wanted, atol=1e-4)


@pytest.mark.parametrize("stop_ids", [[], [9]])
def test_a_stream_gives_the_same_ids_one_by_one(model: GPT, stop_ids: list[int]) -> None:
    sampling = Sampling(0.9, top_k=20, seed=7)
    (wanted,) = generate_batch(model, [[3, 4]], max_tokens=30, sampling=sampling, stop_ids=stop_ids)
    assert list(stream(model, [3, 4], max_tokens=30, sampling=sampling, stop_ids=stop_ids)) == wanted.ids


def test_it_works_under_bf16_autocast(model: GPT) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert len(generate(model, [1, 2, 3], max_tokens=20)) == 20
