"""Muon for hidden matrices with AdamW for the rest, as one optimizer with one state.

Muon (Jordan et al. 2024) follows the momentum of a matrix's gradient after making it orthogonal: every direction is
learned at the same pace. The iteration is that of torch.optim.Muon with two differences. All matrices of one shape are
worked on together, which is faster for small ones; and each of the first steps has the best polynomial for it (Amsel et
al. 2025, "The Polar Express", algorithm 1), so that fewer steps are needed. Its state is one momentum per matrix.
"""

# L = matrices of one shape, M = rows, N = columns

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from trainer.loop.precision import chosen_precision

POLYNOMIALS = (
    # Amsel et al. 2025, for singular values from 1e-3 to 1.
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
"""(a, b, c) of X <- aX + b(XX')X + c(XX')²X; the last one serves every further step."""

_SAFETY = 1.01
"""All but the last polynomial take their argument so much smaller: a value that bf16 rounds out of the interval they
are made for would grow without bound (seen: 23,000 after five steps on one of 64 random 16 x 16 matrices)."""

_NUMBERS_AT_ONCE = 2**26
"""Bounds the memory of a step: so many numbers are stacked at a time."""


class MuonWithAdamW(Optimizer):
    """Steps both. `load_state_dict` of an equal model goes on to the bit."""

    def __init__(self, *, matrices: Sequence[dict[str, Any]], adamw: AdamW | None) -> None:
        """`matrices`: groups with lr, weight_decay, momentum, ns_steps, and how many `parts` each matrix stacks."""
        self._adamw = adamw
        others = adamw.param_groups if adamw else []
        self._num_adamw_groups = len(others)
        super().__init__([*others, *matrices], defaults={})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every parameter that has a gradient."""
        assert closure is None
        if self._adamw is not None:
            # Loading a state makes new groups and a new mapping; AdamW works on those.
            self._adamw.param_groups, self._adamw.state = self.param_groups[: self._num_adamw_groups], self.state
            self._adamw.step()
        for group in self.param_groups[self._num_adamw_groups :]:
            self._step_matrices(group)
        return None

    def _step_matrices(self, group: dict[str, Any]) -> None:
        for matrices in _of_one_shape([p for p in group["params"] if p.grad is not None]):
            directions = [self._momentum(matrix, group["momentum"]) for matrix in matrices]
            updates_LMN = orthogonal(_stacked(directions, group["parts"]), group["ns_steps"])
            rows, columns = updates_LMN.shape[-2:]
            scale = math.sqrt(max(1.0, rows / columns))  # an update of RMS norm one maps inputs to outputs of RMS one
            updates = updates_LMN.view(len(matrices), -1, columns)
            for matrix, update_MN in zip(matrices, updates, strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(_as_part_of(matrix, update_MN), alpha=-group["lr"] * scale)

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        """The direction to follow, with Nesterov's look ahead."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        average: Tensor = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)


def orthogonal(directions_LMN: Tensor, ns_steps: int) -> Tensor:
    """The nearest matrix with all singular values one to each of these, about; fp32, whatever it is computed in."""
    is_tall = directions_LMN.shape[-2] > directions_LMN.shape[-1]
    x_LMN = directions_LMN.mT if is_tall else directions_LMN
    x_LMN = x_LMN / x_LMN.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    x_LMN = x_LMN.to(_dtype(x_LMN.device))
    for step in range(ns_steps):
        a, b, c = _polynomial(step)
        gram_LMM = x_LMN @ x_LMN.mT
        polynomial_LMM = torch.baddbmm(gram_LMM, gram_LMM, gram_LMM, beta=b, alpha=c)
        x_LMN = torch.baddbmm(x_LMN, polynomial_LMM, x_LMN, beta=a)
    return (x_LMN.mT if is_tall else x_LMN).float()


def _polynomial(step: int) -> tuple[float, float, float]:
    if step >= len(POLYNOMIALS) - 1:
        return POLYNOMIALS[-1]
    a, b, c = POLYNOMIALS[step]
    return a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5


def _dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware computes in it: the result need not be exact, only repeatable."""
    return torch.bfloat16 if chosen_precision("auto", device.type) == "bf16" else torch.float32


def _of_one_shape(matrices: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        by_shape[matrix.shape].append(matrix)
    for shape, alike in by_shape.items():
        at_once = max(1, _NUMBERS_AT_ONCE // shape.numel())
        yield from (alike[start : start + at_once] for start in range(0, len(alike), at_once))


def _stacked(matrices: Sequence[Tensor], parts: int) -> Tensor:
    """All of them, whole, cut into their parts: (matrices × parts, rows of a part, columns)."""
    whole = [matrix.full_tensor() if hasattr(matrix, "full_tensor") else matrix for matrix in matrices]
    rows, columns = whole[0].shape
    return torch.stack(whole).view(len(whole) * parts, rows // parts, columns)


def _as_part_of(matrix: Any, update_MN: Tensor) -> Any:
    """This rank's part of the update where `matrix` is spread over ranks (FSDP), all of it elsewhere."""
    if not hasattr(matrix, "device_mesh"):
        return update_MN
    from torch.distributed.tensor import DTensor, Replicate  # only where ranks have formed a mesh

    mesh = matrix.device_mesh
    everywhere = DTensor.from_local(update_MN, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(mesh, matrix.placements)
