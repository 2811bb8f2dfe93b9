"""Packed matrices: the same products, for as long as they are the model's."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from trainer.config import ModelConfig
from trainer.models import decoding as decoding_module
from trainer.models.build import build_model
from trainer.models.decoding import MIN_TOKENS, decoding
from trainer.models.generate import generate_batch, stream
from trainer.models.language_model import LanguageModel, Linear
from trainer.models.packed import Layer, packed
from trainer.models.sampling import Sampling

WIDE = ModelConfig(d_model=64, n_layers=2, n_heads=2, max_seq_len=64, vocab_size=101)


@pytest.fixture(autouse=True)
def small_matrices_are_packed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_module, "MIN_WEIGHTS", 1)


@pytest.fixture(params=["gpt2", "gpt2, own head", "modern"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    more = {"gpt2": {}, "gpt2, own head": {"tied_head": False}, "modern": {"arch": "modern", "bias": False}}
    torch.manual_seed(3)
    model = build_model(ModelConfig(**{**WIDE.model_dump(exclude_unset=True), **more[request.param]}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def logits(model: LanguageModel, rows: int) -> Tensor:
    with torch.no_grad():
        found = model(torch.arange(rows * 3).view(rows, 3)).logits
    assert found is not None
    return found


def is_packed(model: LanguageModel) -> bool:
    found = [each.packed is not None for each in model.modules() if isinstance(each, Linear)]
    assert len(set(found)) == 1
    return found[0]


@pytest.mark.parametrize("is_one_row", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_matrices_give_the_products_of_the_plain_ones(dtype: torch.dtype, is_one_row: bool) -> None:
    torch.manual_seed(1)
    linears = [torch.nn.Linear(inputs, outputs).to(dtype) for outputs, inputs in ((96, 32), (32, 96), (7, 5), (5, 7))]
    layers = [Layer(linear.weight, bias) for linear in linears for bias in (linear.bias, None)]
    for layer, product in zip(layers, packed(layers, is_one_row=is_one_row), strict=True):
        for shape in ((1, 1), (2, 1), (9, 1), (1, 6)):
            x = torch.randn(*shape, layer.weight_OI.shape[1], dtype=dtype)
            with torch.no_grad():
                torch.testing.assert_close(product(x), torch.nn.functional.linear(x, *layer))


@pytest.mark.parametrize("rows", [1, 4])
def test_a_packed_model_gives_the_same_logits(model: LanguageModel, rows: int) -> None:
    wanted = logits(model, rows)
    with decoding(model, rows=rows, tokens=MIN_TOKENS):
        assert is_packed(model)
        torch.testing.assert_close(logits(model, rows), wanted, rtol=1e-5, atol=1e-4)
    assert not is_packed(model)


@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_ids_are_those_of_plain_matrices(
    model: LanguageModel, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[row, 5, 7] for row in range(rows)]
    found = generate_batch(model, prompts, max_tokens=40, sampling=Sampling(0.0))
    monkeypatch.setattr(decoding_module, "MIN_TOKENS", 1000)
    model.load_state_dict(model.state_dict())  # packs made for it are not used again
    assert generate_batch(model, prompts, max_tokens=40, sampling=Sampling(0.0)) == found


def test_changed_weights_are_packed_anew(model: LanguageModel) -> None:
    with decoding(model, rows=1, tokens=MIN_TOKENS):
        before = logits(model, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    wanted = logits(model, 1)
    with decoding(model, rows=1, tokens=MIN_TOKENS):
        after = logits(model, 1)
    torch.testing.assert_close(after, wanted, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(after, before)


def test_packs_stay_with_a_model_in_use_and_go_from_one_in_training(model: LanguageModel) -> None:
    with decoding(model, rows=1, tokens=MIN_TOKENS):
        pass
    with decoding(model, rows=1, tokens=1):
        assert is_packed(model)
    model.train()
    with decoding(model, rows=1, tokens=1):
        assert is_packed(model)
    with decoding(model, rows=1, tokens=1):
        assert not is_packed(model)


def test_gradients_are_those_of_the_weights_even_while_a_text_is_written(model: LanguageModel) -> None:
    text = stream(model, [1, 2], max_tokens=40, sampling=Sampling(0.0))
    next(text)
    assert is_packed(model)
    loss_sum = model(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])).loss_sum
    assert loss_sum is not None
    loss_sum.backward()
    assert all(each.weight.grad is not None for each in model.modules() if isinstance(each, Linear))
    text.close()
    assert not is_packed(model)


def test_what_is_small_short_or_under_autocast_is_left_alone(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with decoding(model, rows=1, tokens=MIN_TOKENS - 1):
        assert not is_packed(model)
    with torch.autocast("cpu", dtype=torch.bfloat16), decoding(model, rows=1, tokens=MIN_TOKENS):
        assert not is_packed(model)
    monkeypatch.setattr(decoding_module, "MIN_WEIGHTS", 2**18)
    with decoding(model, rows=1, tokens=MIN_TOKENS):
        assert not is_packed(model)


def test_packs_do_not_keep_a_model_alive() -> None:
    model = build_model(WIDE).eval()
    with decoding(model, rows=2, tokens=MIN_TOKENS):
        pass
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
