"""AdamW: who decays, and that a step is reproducible to the bit."""

from __future__ import annotations

import torch

from trainer.config import ModelConfig, OptimConfig
from trainer.loop.optim import make_optimizer
from trainer.models.model import GPT

CONFIG = ModelConfig(d_model=32, n_layers=2, n_heads=2, max_seq_len=16, vocab_size=53)


ROWS = torch.randint(53, (4, 17), generator=torch.Generator().manual_seed(0))


def loss_of(model: GPT) -> torch.Tensor:
    loss_sum: torch.Tensor = model(ROWS[:, :-1], ROWS[:, 1:]).loss_sum
    return loss_sum


def trained(steps: int, lr: float = 6e-4) -> GPT:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    optimizer = make_optimizer(model, OptimConfig(lr=lr))
    for _ in range(steps):
        (loss_of(model) / 64).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model


def test_matrices_decay_and_the_rest_does_not() -> None:
    model = GPT(CONFIG)
    decayed, plain = make_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert all(parameter.dim() == 2 for parameter in decayed["params"])
    assert all(parameter.dim() == 1 for parameter in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out() -> None:
    model = GPT(CONFIG)
    model.token_embedding.weight.requires_grad_(False)
    groups = make_optimizer(model, OptimConfig()).param_groups
    assert not any(parameter is model.token_embedding.weight for group in groups for parameter in group["params"])


def test_a_step_equals_that_of_the_plain_adamw() -> None:
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(7, 5))
        module = torch.nn.ParameterList([parameter])
        optimizer = make_optimizer(module, OptimConfig(lr=0.01))
        if not fused:
            optimizer = torch.optim.AdamW([parameter], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, foreach=False)
        for step in range(5):
            parameter.grad = torch.sin(parameter.detach() + step)
            optimizer.step()
        results.append(parameter.detach().clone())
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-7)


def test_training_twice_gives_the_same_bits() -> None:
    first, second = trained(3).state_dict(), trained(3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns_a_batch_by_heart() -> None:
    assert loss_of(trained(60, lr=3e-3)).item() < 0.5 * loss_of(trained(0)).item()
