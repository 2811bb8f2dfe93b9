"""GPT-2 exactly: transformers is the oracle, and near misses must be seen to miss."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")


import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from trainer.config import ModelConfig
from trainer.models.cache import KVCache
from trainer.models.gpt2_weights import from_gpt2, gpt2_config
from trainer.models.loss import IGNORE_INDEX
from trainer.models.model import GPT

CONFIG = ModelConfig(d_model=64, n_layers=3, n_heads=4, max_seq_len=48, vocab_size=101)


def oracle(config: ModelConfig = CONFIG) -> GPT2LMHeadModel:
    """A random GPT-2 of transformers, weights × 5 so that GELU and softmax are far from linear, biases not zero."""
    torch.manual_seed(7)
    settings = {key: value for key, value in gpt2_config(config).items() if key not in ("architectures", "model_type")}
    model = GPT2LMHeadModel(GPT2Config(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5) if parameter.dim() == 2 else parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def ours_of(theirs: GPT2LMHeadModel, config: ModelConfig = CONFIG) -> GPT:
    model = GPT(config).eval()
    model.load_state_dict(from_gpt2(theirs.state_dict(), config))
    return model


def logits_of(model: nn.Module, ids_BT: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids_BT).logits
    return logits


@pytest.fixture
def ids_BT() -> torch.Tensor:
    return torch.randint(CONFIG.vocab_size, (2, 48), generator=torch.Generator().manual_seed(3))


def test_logits_equal_those_of_transformers(ids_BT: torch.Tensor) -> None:
    theirs = oracle()
    difference = (logits_of(ours_of(theirs), ids_BT) - logits_of(theirs, ids_BT)).abs().max()
    assert difference <= 1e-5


def test_the_exact_gelu_would_be_noticed(ids_BT: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = oracle()
    ours = ours_of(theirs)
    exact = F.gelu
    monkeypatch.setattr(F, "gelu", lambda x, approximate: exact(x))
    assert (logits_of(ours, ids_BT) - logits_of(theirs, ids_BT)).abs().max() > 1e-4


def test_a_forgotten_transpose_of_the_square_matrix_would_be_noticed(ids_BT: torch.Tensor) -> None:
    theirs = oracle()
    ours = ours_of(theirs)
    with torch.no_grad():
        weight = ours.blocks[0].attention.proj.weight
        weight.copy_(weight.t().clone())
    assert (logits_of(ours, ids_BT) - logits_of(theirs, ids_BT)).abs().max() > 0.1


def test_gradients_equal_those_of_transformers(ids_BT: torch.Tensor) -> None:
    theirs = oracle()
    ours = ours_of(theirs)
    theirs(input_ids=ids_BT, labels=ids_BT).loss.backward()
    loss_sum = ours(ids_BT[:, :-1], ids_BT[:, 1:]).loss_sum
    (loss_sum / ids_BT[:, 1:].numel()).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, wanted in from_gpt2(gradients, CONFIG).items():
        torch.testing.assert_close(ours.get_parameter(name).grad, wanted, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(("vocab_size", "loss"), [(50257, 10.8249), (50304, 10.8258), (32768, 10.3972), (65, 4.1744)])
def test_the_first_loss_is_that_of_a_uniform_guess(vocab_size: int, loss: float) -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(d_model=64, n_layers=2, n_heads=2, max_seq_len=64, vocab_size=vocab_size))
    rows = torch.randint(vocab_size, (4, 65))
    assert abs(model(rows[:, :-1], rows[:, 1:]).loss_sum.item() / (4 * 64) - loss) < 0.05


def test_initial_weights_are_those_of_gpt2() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(d_model=256, n_layers=8, n_heads=4, max_seq_len=128, vocab_size=1000))
    for name, parameter in model.named_parameters():
        into_residual = name.endswith(("attention.proj.weight", "mlp.down.weight"))
        if parameter.dim() >= 2:
            assert parameter.std().item() == pytest.approx(0.02 / 4 if into_residual else 0.02, rel=0.03), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("norm.weight")))), name


def test_the_seed_alone_decides_the_initial_weights() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(GPT(CONFIG).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["token_embedding.weight"], states[2]["token_embedding.weight"])


def test_each_weight_stands_once_in_the_state_dict() -> None:
    state = GPT(CONFIG).state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


def test_no_token_sees_a_later_one(ids_BT: torch.Tensor) -> None:
    model = ours_of(oracle())
    changed_BT = ids_BT.clone()
    changed_BT[:, 20:] = 0
    assert torch.equal(logits_of(model, ids_BT)[:, :20], logits_of(model, changed_BT)[:, :20])


def test_the_loss_is_the_sum_of_the_cross_entropy_of_the_logits(ids_BT: torch.Tensor) -> None:
    model = ours_of(oracle())
    labels_BT = ids_BT.roll(-1, 1)
    labels_BT[0, 5:9] = IGNORE_INDEX
    wanted = F.cross_entropy(logits_of(model, ids_BT).flatten(0, 1), labels_BT.flatten(), reduction="sum")
    torch.testing.assert_close(model(ids_BT, labels_BT).loss_sum, wanted)


def test_the_last_logits_alone_are_the_last_of_all(ids_BT: torch.Tensor) -> None:
    model = ours_of(oracle())
    with torch.no_grad():
        last = model(ids_BT, last_only=True).logits
    torch.testing.assert_close(last, logits_of(model, ids_BT)[:, -1:])


@pytest.mark.parametrize("parts", [[1] * 48, [30, 1, 17], [48]])
def test_logits_with_a_cache_equal_those_of_one_forward(ids_BT: torch.Tensor, parts: list[int]) -> None:
    model = ours_of(oracle())
    cache = KVCache(CONFIG, 2, dtype=torch.float32, device=torch.device("cpu"))
    with torch.no_grad():
        pieces = [model(piece, cache=cache).logits for piece in ids_BT.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), logits_of(model, ids_BT), rtol=0, atol=1e-4)
    assert cache.length == 48


def test_given_positions_are_the_ones_used(ids_BT: torch.Tensor) -> None:
    model = ours_of(oracle())
    with torch.no_grad():
        same = model(ids_BT, positions_BT=torch.arange(48).expand(2, 48)).logits
        other = model(ids_BT, positions_BT=torch.arange(48).flip(0).expand(2, 48)).logits
    torch.testing.assert_close(same, logits_of(model, ids_BT))
    assert not torch.allclose(other, same, atol=0.1)


def test_dropout_acts_in_training_alone(ids_BT: torch.Tensor) -> None:
    model = GPT(CONFIG.model_copy(update={"dropout": 0.5}))
    torch.manual_seed(1)
    assert not torch.equal(model(ids_BT).logits, model(ids_BT).logits)
    model.eval()
    assert torch.equal(model(ids_BT).logits, model(ids_BT).logits)


def test_a_model_without_biases_has_none() -> None:
    model = GPT(CONFIG.model_copy(update={"bias": False}))
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="needs a CPU that computes in bf16")
def test_bf16_autocast_stays_near_fp32(ids_BT: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    labels_BT = ids_BT.roll(-1, 1)
    exact = model(ids_BT, labels_BT).loss_sum
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(ids_BT, labels_BT).loss_sum
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=2e-3, atol=0)
    rounded.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by torch's own compiler
def test_it_compiles_into_one_graph_with_the_same_loss_and_gradients() -> None:
    """That what is made of the graph computes the same is shown by a whole compiled run, in test_engine.py."""
    torch.manual_seed(0)
    model = GPT(ModelConfig(d_model=16, n_layers=1, n_heads=2, max_seq_len=8, vocab_size=31))
    ids_BT, labels_BT = torch.randint(31, (2, 8)), torch.randint(31, (2, 8))
    results = []
    for forward in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        loss_sum = forward(ids_BT, labels_BT).loss_sum
        results.append((loss_sum.detach(), torch.autograd.grad(loss_sum, list(model.parameters()))))
    torch.testing.assert_close(results[0], results[1])
