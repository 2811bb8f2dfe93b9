"""Products for training: those of `F.linear`, values and gradients, whichever library makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from trainer.models import products
from trainer.models.products import linear, times_transposed

SHAPE = (2, 8, 24)


@pytest.fixture(params=[1, 2**40], ids=["by oneDNN", "by MKL"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MIN_MULTIPLICATIONS", request.param)


def tensors(*, has_bias: bool) -> list[Tensor | None]:
    torch.manual_seed(1)
    return [
        torch.randn(SHAPE, requires_grad=True),
        torch.randn(40, SHAPE[-1], requires_grad=True),
        torch.randn(40, requires_grad=True) if has_bias else None,
    ]


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_half", [False, True], ids=["fp32", "bf16"])
def test_values_and_gradients_are_those_of_torch(has_bias: bool, is_half: bool) -> None:
    found, wanted = tensors(has_bias=has_bias), tensors(has_bias=has_bias)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
        ours, theirs = linear(*found), F.linear(*wanted)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs)
    for y in (ours, theirs):
        (y.transpose(1, 2) ** 2).sum().backward()  # a gradient that is not contiguous
    for mine, other in zip(found, wanted, strict=True):
        if mine is not None and other is not None:
            assert mine.grad is not None
            assert mine.grad.dtype == torch.float32
            torch.testing.assert_close(
                mine.grad, other.grad, rtol=2e-2 if is_half else 1e-5, atol=1 if is_half else 1e-4
            )


def test_what_is_frozen_gets_no_gradient() -> None:
    x, weight, bias = tensors(has_bias=True)
    assert x is not None
    assert weight is not None
    assert bias is not None
    weight.requires_grad_(False)
    linear(x, weight, bias).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(SHAPE))
    torch.testing.assert_close(bias.grad, torch.full((40,), 16.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_may_have_its_factor_turned(dtype: torch.dtype) -> None:
    x, weight = torch.randn(16, 24, dtype=dtype), torch.randn(40, 24, dtype=dtype)
    torch.testing.assert_close(times_transposed(x, weight), x @ weight.t())
    torch.testing.assert_close(times_transposed(x, weight.t().contiguous().t()), x @ weight.t())


def test_autocast_decides_as_it_does_for_torch() -> None:
    x, weight, bias = tensors(has_bias=True)
    assert x is not None
    assert weight is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's compiler does
@pytest.mark.parametrize("is_half", [False, True], ids=["fp32", "bf16"])
def test_a_compiler_traces_the_same_values_and_gradients(is_half: bool) -> None:
    graphs: list[list[str]] = []

    def seen(graph: torch.fx.GraphModule, _inputs: Sequence[Tensor]) -> Callable[..., Any]:
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    compiled = torch.compile(linear, backend=aot_autograd(fw_compiler=seen), fullgraph=True)
    found, wanted = tensors(has_bias=True), tensors(has_bias=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
        ours, theirs = compiled(*found), linear(*wanted)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs)
    for y in (ours, theirs):
        (y.transpose(1, 2) ** 2).sum().backward()
    for mine, other in zip(found, wanted, strict=True):
        assert mine is not None
        assert other is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=2e-2 if is_half else 1e-5, atol=1 if is_half else 1e-4)
    by_onednn = products.MIN_MULTIPLICATIONS == 1 and not is_half
    assert [sum("gptops.linear" in target for target in graph) for graph in graphs] == [by_onednn, by_onednn]
