"""Muon beside AdamW: torch's own optimizers are the oracle, and a saved state goes on to the bit."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.tiny import assert_same_run, checkpoint, largest_difference, run_trainer, train_tiny, weights
from trainer.config import ModelConfig, OptimConfig
from trainer.loop import optim_muon
from trainer.loop.optim import make_optimizer, set_lr
from trainer.loop.optim_muon import orthogonal
from trainer.models.build import build_model
from trainer.models.language_model import LanguageModel

MUON = OptimConfig(kind="muon", lr=3e-3, matrix_lr=0.02, matrix_weight_decay=0.1, head_lr=1e-3)
CONFIG = ModelConfig(arch="modern", tied_head=False, d_model=32, n_layers=2, n_heads=2, max_seq_len=16, vocab_size=53)
GPT2 = ModelConfig(d_model=32, n_layers=2, n_heads=2, max_seq_len=16, vocab_size=53)
ROWS = torch.randint(53, (4, 17), generator=torch.Generator().manual_seed(0))


def new_model(config: ModelConfig = CONFIG) -> LanguageModel:
    torch.manual_seed(0)
    return build_model(config)


def take_steps(model: LanguageModel, optimizer: torch.optim.Optimizer, steps: int, lr: float = 2e-3) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = model(ROWS[:, :-1], ROWS[:, 1:]).loss_sum / 64
        loss.backward()
        set_lr(optimizer, lr)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The polynomial and the scaling of torch.optim.Muon, and fp32, so that only the order of sums may differ."""
    monkeypatch.setattr(optim_muon, "POLYNOMIALS", ((3.4445, -4.7750, 2.0315),))
    monkeypatch.setattr(optim_muon, "_SAFETY", 1.0)
    monkeypatch.setattr(optim_muon, "_dtype", lambda _: torch.float32)
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.float)


@pytest.mark.usefixtures("published")
@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs torch 2.9")
def test_with_the_published_polynomial_a_step_is_that_of_torch() -> None:
    torch.manual_seed(1)
    wide, tall, stacked = (nn.Parameter(torch.randn(shape)) for shape in ((8, 24), (24, 8), (24, 8)))
    theirs = [nn.Parameter(p.detach().clone()) for p in (wide, tall)]
    theirs += [nn.Parameter(part.detach().clone()) for part in stacked.chunk(3)]
    model = nn.ParameterDict({"0_wide": wide, "0_tall": tall})
    ours = make_optimizer(_Layers(model, stacked), OptimConfig(kind="muon", matrix_lr=0.1, matrix_weight_decay=0.3))
    oracle = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.3, momentum=0.95)
    for step in range(4):
        for parameter in (wide, tall, stacked):
            parameter.grad = torch.sin(parameter.detach() * 3 + step)
        for parameter, grad in zip(theirs, [wide.grad, tall.grad, *stacked.grad.chunk(3)], strict=True):
            parameter.grad = grad.clone()
        ours.step()
        oracle.step()
    for mine, wanted in zip((wide, tall, *stacked.chunk(3)), theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


class _Layers(nn.Module):
    """Matrices under the names of a block's."""

    def __init__(self, matrices: nn.ParameterDict, qkv: nn.Parameter) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Module()])
        self.blocks[0].matrices = matrices
        self.blocks[0].qkv = nn.Module()
        self.blocks[0].qkv.weight = qkv


@pytest.mark.parametrize("shape", [(64, 16, 16), (8, 16, 40), (8, 40, 16)])
def test_an_update_has_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)  # of these matrices some grow beyond bounds without the safety factor
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape) * 1e-3, ns_steps=5))[:, :-1]
    assert values.min() > 0.7
    assert values.max() < 1.2


def test_no_direction_is_no_update() -> None:
    assert torch.equal(orthogonal(torch.zeros(2, 8, 8), ns_steps=5), torch.zeros(2, 8, 8))


@pytest.mark.parametrize("config", [CONFIG, GPT2])
def test_every_parameter_is_in_one_group_and_matrices_of_blocks_are_muons(config: ModelConfig) -> None:
    model = new_model(config)
    optimizer = make_optimizer(model, MUON)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muons = {names[id(p)] for group in optimizer.param_groups if "momentum" in group for p in group["params"]}
    assert muons == {name for name, p in model.named_parameters() if "blocks." in name and p.dim() == 2}
    everything = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(names.values())


def test_each_group_keeps_its_own_peak_under_one_schedule() -> None:
    model = new_model()
    optimizer = make_optimizer(model, MUON)
    set_lr(optimizer, MUON.lr / 2)
    lr_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert lr_of[id(model.token_embedding.weight)] == pytest.approx(1.5e-3)
    assert lr_of[id(model.head_weight)] == pytest.approx(0.5e-3)
    assert lr_of[id(model.get_parameter("blocks.0.mlp.up.weight"))] == pytest.approx(0.01)


@pytest.mark.parametrize("config", [CONFIG, GPT2])
def test_it_goes_on_from_a_saved_state_to_the_bit(config: ModelConfig) -> None:
    straight = new_model(config)
    take_steps(straight, make_optimizer(straight, MUON), 7)
    first = new_model(config)
    before = make_optimizer(first, MUON)
    take_steps(first, before, 4)
    second = new_model(config)
    second.load_state_dict(first.state_dict())
    after = make_optimizer(second, MUON)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    take_steps(second, after, 3)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("config", [CONFIG, GPT2])
def test_it_learns_a_batch_by_heart(config: ModelConfig) -> None:
    model = new_model(config)
    losses = take_steps(model, make_optimizer(model, MUON), 40, lr=1e-2)
    assert losses[-1] < 0.5 * losses[0]


def test_many_matrices_of_one_shape_may_be_taken_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for at_once in (2**26, 1):
        monkeypatch.setattr(optim_muon, "_NUMBERS_AT_ONCE", at_once)
        model = new_model()
        take_steps(model, make_optimizer(model, MUON), 3)
        results.append(model.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-2, atol=1e-4)


RUN = ("model.arch=modern", "model.tied_head=false", "optim.kind=muon", "schedule.kind=wsd", "model.dropout=0")


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train_tiny(straight, *RUN, "train.max_steps=6", "checkpoint.every_steps=3")
    train_tiny(resumed, *RUN, "train.max_steps=6", "checkpoint.every_steps=3")
    shutil.rmtree(checkpoint(resumed, 6))  # as if it had been killed before
    train_tiny(resumed, *RUN, "train.max_steps=6", "checkpoint.every_steps=3")
    assert_same_run(straight, resumed, 6)


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    steps = ("train.max_steps=4", "eval.every_steps=4", "checkpoint.every_steps=4")
    train_tiny(one, *RUN, *steps)
    code, _, err = run_trainer(two, *RUN, *steps, processes=2)
    assert code == 0, err
    assert largest_difference(weights(one, 4), weights(two, 4)) < 0.02  # bf16 in the iteration turns 1e-7 into 1e-3
