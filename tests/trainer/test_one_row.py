"""The forward of one text in NumPy: the network's own logits, wherever it is used, and used only where it may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.models import blas_threads as module
from trainer.models.blas_threads import blas_threads
from trainer.models.build import build_model
from trainer.models.cache import KVCache
from trainer.models.decoding import MIN_TOKENS, decoding
from trainer.models.generate import generate_batch, stream
from trainer.models.language_model import LanguageModel
from trainer.models.one_row import OneRow
from trainer.models.sampling import Sampling

SHAPE = {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 48, "vocab_size": 2500}
PROMPT = [3, 5, 7]


def drawn(**more: object) -> LanguageModel:
    """A network whose every weight matters."""
    torch.manual_seed(3)
    model = build_model(ModelConfig(**{**SHAPE, **more}))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def is_offered(model: nn.Module, *, rows: int = 1, tokens: int = MIN_TOKENS) -> bool:
    with decoding(model, rows=rows, tokens=tokens) as one_row:
        return one_row is not None


def logits_after(model: LanguageModel, ids: list[int]) -> list[Tensor]:
    """Of each id, by the forward of one text where it is offered."""
    cache = KVCache(model.config, 1, dtype=torch.float32, device=torch.device("cpu"))
    with decoding(model, rows=1, tokens=MIN_TOKENS) as one_row, torch.inference_mode():
        assert isinstance(one_row, OneRow)
        return [one_row.logits(each, cache)[0] for each in ids]


@pytest.mark.parametrize(
    "more", [{}, {"tied_head": False}, {"bias": False}, {"qkv_bias": False}, {"n_heads": 1}], ids=lambda each: str(each)
)
def test_the_logits_are_those_of_the_network(more: dict[str, object]) -> None:
    model = drawn(**more)
    ids = torch.randint(2500, (1, 48))
    with torch.no_grad():
        wanted = model(ids).logits
    found = torch.stack(logits_after(model, ids[0].tolist()))
    torch.testing.assert_close(found, wanted[0], rtol=1e-5, atol=2e-4)


def test_a_text_is_that_of_the_network_past_its_last_position_too() -> None:
    model = drawn()
    for sampling in (Sampling(0.0), Sampling(0.8, top_k=50, seed=4)):
        (found,) = generate_batch(model, [PROMPT], max_tokens=120, sampling=sampling, with_logps=True)
        beside = generate_batch(model, [PROMPT, [4]], max_tokens=120, sampling=sampling, with_logps=True)[0]
        assert found.ids == beside.ids
        np.testing.assert_allclose(found.logps, beside.logps, atol=1e-3)
        assert list(stream(model, PROMPT, max_tokens=120, sampling=sampling)) == found.ids


def test_it_is_for_one_longer_text_of_a_plain_gpt2_in_fp32() -> None:
    assert is_offered(drawn())
    assert not is_offered(drawn(), rows=2)
    assert not is_offered(drawn(), tokens=MIN_TOKENS - 1)
    assert not is_offered(drawn().bfloat16())
    assert not is_offered(drawn(arch="modern", bias=False))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_offered(drawn())


def test_a_network_that_was_added_to_is_called_itself() -> None:
    watched, grown = drawn(), drawn()
    assert is_offered(watched)
    watched.blocks[0].register_forward_hook(lambda *_: None)
    grown.blocks[1].mlp.up = nn.Sequential(grown.blocks[1].mlp.up)  # type: ignore[union-attr]
    assert not is_offered(watched)
    assert not is_offered(grown)


@pytest.mark.parametrize("name", ["final_norm.bias", "blocks.1.mlp.down.bias", "position_embedding.weight"])
@pytest.mark.parametrize("is_in_place", [True, False])
def test_a_changed_weight_of_any_kind_is_noticed(name: str, is_in_place: bool) -> None:
    model = drawn()
    before = logits_after(model, [1])[0]
    weight = model.get_parameter(name)
    with torch.no_grad():
        if is_in_place:
            weight.add_(torch.randn_like(weight))
        else:
            weight.data = weight + torch.randn_like(weight)
        wanted = model(torch.tensor([[1]])).logits[0, -1]
    after = logits_after(model, [1])[0]
    torch.testing.assert_close(after, wanted, rtol=1e-5, atol=2e-4)
    assert not torch.allclose(after, before, atol=1e-2)


def test_numpys_products_take_so_many_threads_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    number = [4]
    library = module._Library(lambda: number[0], lambda wanted: number.__setitem__(0, wanted))
    monkeypatch.setattr(module, "_library", lambda: library)
    for wanted in (1, 8):
        with blas_threads(wanted):
            assert number == [wanted]
        assert number == [4]
    monkeypatch.setattr(module, "_library", lambda: None)
    with blas_threads(1):
        assert number == [4]


def test_numpys_library_is_told_where_it_is_openblas() -> None:
    library = module._library()
    if library is None:
        pytest.skip("this NumPy has another library")
    before = library.number()
    library.limit(2)
    try:
        with blas_threads(1):
            assert library.number() == 1
        assert library.number() == 2
    finally:
        library.limit(before)
