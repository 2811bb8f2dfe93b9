"""The modern network: transformers is the oracle, and each of its parts does what it is said to do."""

from __future__ import annotations

import itertools
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer.config import ConfigError, ModelConfig, validated
from trainer.models.build import build_model
from trainer.models.cache import KVCache
from trainer.models.language_model import LanguageModel
from trainer.models.modern import ModernGPT, rms_norm, rotated, squared_relu
from trainer.models.transformers_folder import read_model, write_model

SHAPE = {"d_model": 64, "n_layers": 3, "n_heads": 4, "max_seq_len": 48, "vocab_size": 101}
RELU2 = ModelConfig(arch="modern", **SHAPE)
KINDS = [
    RELU2,
    ModelConfig(arch="modern", tied_head=False, rope_base=100.0, **SHAPE),
    ModelConfig(arch="modern", activation="swiglu", tied_head=False, **SHAPE),
    ModelConfig(arch="modern", activation="swiglu", **SHAPE),
]
EVERY_ARCH = [*KINDS, ModelConfig(**SHAPE), ModelConfig(qkv_bias=False, tied_head=False, **SHAPE)]


def stirred(config: ModelConfig) -> LanguageModel:
    """A network whose every weight matters: nothing is zero, logits are far from equal."""
    torch.manual_seed(7)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def logits_of(model: torch.nn.Module, ids_BT: torch.Tensor, **more: object) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids_BT, **more).logits
    return logits


@pytest.fixture
def ids_BT() -> torch.Tensor:
    return torch.randint(101, (2, 48), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("config", KINDS)
def test_transformers_computes_the_same_logits(tmp_path: Path, config: ModelConfig, ids_BT: torch.Tensor) -> None:
    ours = stirred(config)
    write_model(tmp_path, ours.state_dict(), config, eot_id=100)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits_of(theirs, ids_BT), logits_of(ours, ids_BT), rtol=0, atol=1e-5)
    assert logits_of(ours, ids_BT).std() > 0.3


@pytest.mark.parametrize("config", KINDS)
def test_what_was_written_is_read_back(tmp_path: Path, config: ModelConfig, ids_BT: torch.Tensor) -> None:
    ours = stirred(config)
    write_model(tmp_path, ours.state_dict(), config)
    back_config, state = read_model(tmp_path)
    back = build_model(back_config).eval()
    back.load_state_dict(state)
    torch.testing.assert_close(logits_of(back, ids_BT), logits_of(ours, ids_BT), rtol=0, atol=1e-3)


@pytest.mark.parametrize("config", EVERY_ARCH)
def test_documents_in_a_row_compute_what_they_would_alone(config: ModelConfig, ids_BT: torch.Tensor) -> None:
    model = stirred(config)
    borders = [0, 5, 6, 30, 48]
    spans = list(itertools.pairwise(borders))
    documents_BT = torch.cat([torch.full((2, end - start), start % 7) for start, end in spans], 1)
    alone = torch.cat([logits_of(model, ids_BT[:, start:end]) for start, end in spans], 1)
    together = logits_of(model, ids_BT, documents_BT=documents_BT)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together - logits_of(model, ids_BT)).abs().max() > 0.01


@pytest.mark.parametrize("config", EVERY_ARCH)
def test_the_loss_of_documents_in_a_row_is_the_sum_of_theirs(config: ModelConfig, ids_BT: torch.Tensor) -> None:
    model = stirred(config)
    labels_BT = ids_BT.roll(-1, 1)
    documents_BT = (torch.arange(48) >= 20).long().expand(2, 48)
    parts = [model(ids_BT[:, part], labels_BT[:, part]).loss_sum for part in (slice(20), slice(20, 48))]
    together = model(ids_BT, labels_BT, documents_BT=documents_BT).loss_sum
    torch.testing.assert_close(together, parts[0] + parts[1])


@pytest.mark.parametrize("config", KINDS[:3])
@pytest.mark.parametrize("parts", [[1] * 48, [30, 1, 17]])
def test_logits_with_a_cache_equal_those_of_one_forward(
    config: ModelConfig, ids_BT: torch.Tensor, parts: list[int]
) -> None:
    model = stirred(config)
    cache = KVCache(config, 2, dtype=torch.float32, device=torch.device("cpu"))
    pieces = [logits_of(model, piece, cache=cache) for piece in ids_BT.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), logits_of(model, ids_BT), rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", KINDS[:3])
def test_only_distances_matter_to_rotary_positions(config: ModelConfig, ids_BT: torch.Tensor) -> None:
    model = stirred(config)
    later = logits_of(model, ids_BT, positions_BT=torch.arange(5, 53))
    torch.testing.assert_close(later, logits_of(model, ids_BT), rtol=0, atol=1e-4)
    apart = logits_of(model, ids_BT, positions_BT=torch.arange(0, 96, 2))
    assert (apart - logits_of(model, ids_BT)).abs().max() > 0.01


def test_no_token_sees_a_later_one(ids_BT: torch.Tensor) -> None:
    model = stirred(RELU2)
    changed_BT = ids_BT.clone()
    changed_BT[:, 20:] = 0
    torch.testing.assert_close(logits_of(model, ids_BT)[:, :20], logits_of(model, changed_BT)[:, :20])


@pytest.mark.parametrize("config", KINDS)
def test_it_begins_as_the_identity_with_the_loss_of_a_guess(config: ModelConfig) -> None:
    torch.manual_seed(0)
    large = config.model_copy(update={"vocab_size": 5000})
    model = build_model(large)
    ids_BT = torch.randint(5000, (4, 48))
    torch.testing.assert_close(model.hidden(ids_BT), rms_norm(model.token_embedding(ids_BT)), rtol=0, atol=1e-3)
    loss = model(ids_BT[:, :-1], ids_BT[:, 1:]).loss_sum / (4 * 47)
    assert abs(loss.item() - 8.517) < 0.2


def test_a_rotation_keeps_lengths_and_turns_by_the_position() -> None:
    model = ModernGPT(RELU2)
    x_BTNH = torch.randn(1, 48, 4, 16)
    turned = rotated(x_BTNH[:, :, None], model.rope(torch.arange(48)))[:, :, 0]
    torch.testing.assert_close(turned.norm(dim=-1), x_BTNH.norm(dim=-1))
    assert torch.equal(turned[:, 0], x_BTNH[:, 0])
    first, second = x_BTNH[0, 1, 0, 0], x_BTNH[0, 1, 0, 8]  # the fastest pair turns by one radian a position
    cos, sin = torch.tensor(1.0).cos(), torch.tensor(1.0).sin()
    torch.testing.assert_close(turned[0, 1, 0, 0], first * cos - second * sin)


def test_the_gradient_of_squared_relu_is_the_plain_one() -> None:
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(squared_relu, (x,))
    assert torch.equal(squared_relu(x), torch.relu(x).square())


@pytest.mark.parametrize("config", [KINDS[1], KINDS[2]])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by torch's own compiler
def test_it_trains_the_same_compiled(config: ModelConfig) -> None:
    model = stirred(config.model_copy(update={"n_layers": 1}))
    ids_BT = torch.randint(101, (2, 17))
    results = []
    for forward in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        loss_sum = forward(ids_BT[:, :-1], ids_BT[:, 1:]).loss_sum
        results.append((loss_sum.detach(), torch.autograd.grad(loss_sum, list(model.parameters()))))
    torch.testing.assert_close(results[0], results[1])


def test_under_bf16_it_stays_close() -> None:
    model = stirred(KINDS[1])
    ids_BT = torch.randint(101, (2, 48))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = logits_of(model, ids_BT)
    assert half.dtype == torch.bfloat16
    assert (half.float() - logits_of(model, ids_BT)).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"arch": "modern", "bias": True}, "arch `modern` has no biases"),
        ({"arch": "modern", "activation": "gelu"}, "`relu2` or `swiglu`, not `gelu`"),
        ({"arch": "gpt2", "activation": "relu2"}, "activation `relu2` is not GPT-2's"),
        ({"arch": "modern", "d_model": 12, "n_heads": 4}, "rotary positions turn pairs"),
        ({"arch": "mamba"}, "'gpt2', 'modern' or 'transformers'"),
    ],
)
def test_what_no_network_is_is_refused(section: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validated(ModelConfig, section, source="x", at="model")
