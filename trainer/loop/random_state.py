"""The state of every generator a process draws from, as JSON that gives it back exactly.

What is drawn: dropout from torch (on CUDA from the device's own generator), and whatever a stage or a user's reward
function takes from `random` and numpy.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

RandomState = dict[str, Any]


def seed_process(seed: int, rank: int, step: int = 0) -> None:
    """Give this rank streams of its own: the same dropout on every rank would repeat the same masks."""
    mixed = int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0])
    torch.manual_seed(mixed % 2**63)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)


def random_state(device: torch.device) -> RandomState:
    """The state of this process's generators."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: RandomState = {
        "torch": _text(torch.get_rng_state()),
        "python": [version, list(words), gauss],
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
    }
    if device.type == "cuda":
        state["cuda"] = _text(torch.cuda.get_rng_state(device))
    return state


def restore_random_state(state: RandomState, device: torch.device) -> None:
    """Make the generators go on from `state`. One of a CUDA run restores on a CPU all but the device's generator."""
    torch.set_rng_state(_tensor(state["torch"]))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(_tensor(state["cuda"]), device)


def go_on_drawing(
    states: Sequence[RandomState], num_processes: int, rank: int, device: torch.device, seed: int, step: int
) -> bool:
    """Restore this rank's own of the states of a checkpoint. Where it is of another number of processes, the streams
    are new ones, a function of the step: False."""
    if len(states) == num_processes:
        restore_random_state(states[rank], device)
        return True
    seed_process(seed, rank, step)
    return False


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
