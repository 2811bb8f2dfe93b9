"""The sliced loss is the plain one: same sum, same gradients, whatever the slices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import ModelConfig
from trainer.models import loss
from trainer.models.build import build_model
from trainer.models.loss import IGNORE_INDEX, linear_cross_entropy
from trainer.models.token_logps import linear_token_logps

M, D, V = 37, 24, 211


@pytest.fixture(params=[2**26, 5 * V, 1], ids=["one slice", "ragged slices", "a token a slice"])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "SLICE_LOGITS", request.param)
    monkeypatch.setattr(loss, "SOFTMAX_LOGITS", {"cpu": 2 * V})


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    hidden_MD = torch.randn(M, D, generator=generator) * 3
    weight_VD = torch.randn(V, D, generator=generator)
    labels_M = torch.randint(V, (M,), generator=generator)
    labels_M[::4] = IGNORE_INDEX
    return hidden_MD, weight_VD, labels_M


def plain(hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor) -> Tensor:
    return F.cross_entropy(hidden_MD @ weight_VD.t(), labels_M, reduction="sum")


@pytest.mark.usefixtures("slices")
def test_sum_and_gradients_equal_the_plain_ones(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden_MD, weight_VD, labels_M = batch
    results = []
    for function in (linear_cross_entropy, plain):
        hidden, weight = hidden_MD.clone().requires_grad_(), weight_VD.clone().requires_grad_()
        loss_sum = function(hidden, weight, labels_M)
        (loss_sum / 28).backward()
        results.append((loss_sum.detach(), hidden.grad, weight.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("function", [linear_cross_entropy, linear_token_logps])
def test_a_frozen_head_costs_no_gradient_and_what_is_below_it_gets_its_own(
    batch: tuple[Tensor, Tensor, Tensor], function: Callable[..., Tensor]
) -> None:
    hidden_MD, weight_VD, labels_M = batch
    gradients, flops = [], []
    for is_frozen in (False, True):
        hidden, weight = hidden_MD.clone().requires_grad_(), weight_VD.clone().requires_grad_(not is_frozen)
        with FlopCounterMode(display=False) as counted:
            function(hidden, weight, labels_M).sum().backward()
        gradients.append(hidden.grad)
        flops.append(counted.get_total_flops())
    assert torch.equal(*gradients)
    assert flops[0] > flops[1] == 2 * flops[0] // 3  # forward, and one of the two products of the backward


@pytest.mark.usefixtures("slices")
def test_without_gradients_the_sum_is_the_same(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(*batch), plain(*batch))


def test_all_labels_ignored_gives_zero_and_no_gradient(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden_MD, weight_VD, labels_M = batch
    hidden_MD.requires_grad_()
    loss_sum = linear_cross_entropy(hidden_MD, weight_VD, torch.full_like(labels_M, IGNORE_INDEX))
    loss_sum.backward()
    assert loss_sum.item() == 0.0
    assert torch.equal(hidden_MD.grad, torch.zeros_like(hidden_MD))


def test_a_hopeless_label_has_a_finite_loss() -> None:
    hidden_MD, weight_VD = torch.tensor([[1.0]]), torch.tensor([[500.0], [0.0]])
    assert linear_cross_entropy(hidden_MD, weight_VD, torch.tensor([1])).item() == 500.0


def test_bf16_slices_add_up_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_MD = torch.randn(512, 8, generator=generator).bfloat16()
    weight_VD = torch.randn(16, 8, generator=generator).bfloat16()
    labels_M = torch.randint(16, (512,), generator=generator)
    gradients = []
    for slice_logits in (2**26, 16):
        monkeypatch.setattr(loss, "SLICE_LOGITS", slice_logits)
        weight = weight_VD.clone().requires_grad_()
        linear_cross_entropy(hidden_MD, weight, labels_M).backward()
        gradients.append(weight.grad)
    difference = (gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max()
    assert difference <= 2**-7


def test_fp16_goes_through_autograd_so_that_the_loss_scale_reaches_it(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden_MD, weight_VD, labels_M = batch
    hidden_MD.requires_grad_()
    with torch.autocast("cpu", dtype=torch.float16):
        loss_sum = linear_cross_entropy(hidden_MD, weight_VD, labels_M)
    (loss_sum * 1024).backward()
    assert loss_sum.dtype == torch.float32
    assert math.isclose(loss_sum.item(), plain(*batch).item(), rel_tol=1e-3)
    assert torch.isfinite(hidden_MD.grad).all()


class _Largest(TorchDispatchMode):
    """Remembers the most numbers any tensor had that was made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        self.numbers = max([self.numbers, *(tensor.numel() for tensor in made)])
        return result


@pytest.mark.parametrize("half", [False, True])
def test_the_logits_of_a_batch_are_never_all_there(monkeypatch: pytest.MonkeyPatch, half: bool) -> None:
    monkeypatch.setattr(loss, "SLICE_LOGITS", 4 * V)
    hidden_MD, weight_VD = torch.randn(64, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    labels_M = torch.randint(V, (64,))
    numbers = []
    for function in (linear_cross_entropy, plain):
        with _Largest() as largest, torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            function(hidden_MD, weight_VD, labels_M).backward()
        numbers.append(largest.numbers)
    assert numbers == [V * D, 64 * V]  # the gradient of the head is the largest; the plain way makes all logits


@pytest.mark.parametrize("num_labels", [None, 5])
def test_a_network_that_is_told_how_many_labels_count_has_the_same_loss(num_labels: int | None) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(d_model=8, n_layers=1, n_heads=2, max_seq_len=8, vocab_size=V))
    ids, labels = torch.randint(V, (2, 8)), torch.full((2, 8), IGNORE_INDEX)
    labels[0, 2:5], labels[1, 6:] = ids[0, 3:6], ids[1, :2]
    found = model(ids, labels, num_labels=num_labels).loss_sum
    found.backward()
    whole = F.cross_entropy(model(ids).logits.flatten(0, 1), labels.flatten(), reduction="sum")
    (expected,) = torch.autograd.grad(whole, [model.token_embedding.weight])
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(model.token_embedding.weight.grad, expected)
