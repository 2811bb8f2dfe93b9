"""What the tests of the trainer share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.trainer.tiny import train_tiny


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Tiny tensors are slower on many threads, and two workers share the cores. Child processes follow."""
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("trained") / "run"
    train_tiny(out_dir)
    return out_dir


@pytest.fixture
def finished_run(_trained: Path, tmp_path: Path) -> Path:
    """A run of 12 steps with checkpoints at 4, 8 and 12; this test's own copy."""
    return Path(shutil.copytree(_trained, tmp_path / "finished"))
