"""The smallest training that is one, in this process or in real ones of its own.

Two layers of width 32 on bytes: a step takes milliseconds, and dropout is on, so whatever forgets a generator shows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from trainer import manifest
from trainer.checkpoints.sharded import is_sharded, read_whole
from trainer.config import RunConfig, run_config
from trainer.loop.engine import Outcome
from trainer.loop.start import run_stage

ROOT = Path(__file__).parents[2]

TINY: dict[str, Any] = {
    "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 32, "dropout": 0.1},
    "data": {"path": "sample", "tokenizer": {"kind": "bytes"}},
    "train": {"max_steps": 12, "global_batch_size": 8, "micro_batch_size": 2, "precision": "fp32", "device": "cpu"},
    "optim": {"lr": 1e-3},
    "schedule": {"warmup_steps": 2},
    "checkpoint": {"every_steps": 4},
    "eval": {"every_steps": 6, "num_batches": 4},
    "log": {"every_steps": 1},
}


def tiny_config(out_dir: Path, *overrides: str) -> RunConfig:
    """The tiny configuration, with `key=value` laid over it."""
    return run_config({"out_dir": str(out_dir), **TINY}, source="tiny", overrides=overrides)


def train_tiny(out_dir: Path, *overrides: str) -> Outcome:
    """Train in this process."""
    return run_stage("pretrain", tiny_config(out_dir, *overrides))


def start_trainer(out_dir: Path, *overrides: str, processes: int = 1, **environ: str) -> subprocess.Popen[str]:
    """Train in a process of its own, or in several under torchrun; stdout has what rank 0 says."""
    config = out_dir.parent / f"{out_dir.name}.yaml"
    config.write_text(json.dumps({"out_dir": str(out_dir), **TINY}), encoding="utf-8")
    arguments = ["-m", "trainer", "pretrain", "--config", str(config), *overrides]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [sys.executable, *(torchrun if processes > 1 else []), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str], timeout_seconds: float = 240) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a training that is awaited to its end."""
    out, err = process.communicate(timeout=timeout_seconds)
    return process.returncode, out, err


def run_trainer(out_dir: Path, *overrides: str, processes: int = 1, **environ: str) -> tuple[int, str, str]:
    """`start_trainer` and `finished`."""
    return finished(start_trainer(out_dir, *overrides, processes=processes, **environ))


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What the training said up to the line that has these words; fails where it ends before."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(f"the training ended without saying {words!r}:\n{said}")


def training_processes(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train: the children of torchrun, or the one itself."""
    return psutil.Process(process.pid).children(recursive=True) or [psutil.Process(process.pid)]


def kill_all(process: subprocess.Popen[str]) -> None:
    """`kill -9` to the training and to whatever started it, as a power cut would."""
    everything = [psutil.Process(process.pid), *training_processes(process)]
    for one in everything:
        if one.is_running():
            one.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    psutil.wait_procs(everything[1:], timeout=30)


def checkpoints(out_dir: Path) -> list[int]:
    """The steps of the published checkpoints."""
    return [manifest.step_of(path.name) or 0 for path in manifest.checkpoints(out_dir / "checkpoints")]


def checkpoint(out_dir: Path, step: int) -> Path:
    return out_dir / "checkpoints" / manifest.step_name(step)


def tensors(out_dir: Path, step: int) -> dict[str, torch.Tensor]:
    """Every weight and every moment of a checkpoint."""
    folder = checkpoint(out_dir, step)
    if is_sharded(folder):
        return {**read_whole(folder / "model"), **read_whole(folder / "optimizer")}
    return {**weights(out_dir, step), **load_file(folder / "optimizer.safetensors")}


def weights(out_dir: Path, step: int) -> dict[str, torch.Tensor]:
    """What was trained, be it adapters or all."""
    found = [checkpoint(out_dir, step) / file for file in ("model.safetensors", "adapter/adapter_model.safetensors")]
    return {name: tensor for file in found if file.exists() for name, tensor in load_file(file).items()}


def rows(out_dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the machine's speed."""
    lines = (out_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    measured = ("tokens_per_second", "memory_gib", "mfu")
    return [{k: v for k, v in json.loads(line).items() if k not in measured} for line in lines]


def assert_same_run(one: Path, other: Path, step: int) -> None:
    """Two runs are the same to the bit: parameters, moments, generators, data position, every logged number."""
    ours, theirs = tensors(one, step), tensors(other, step)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    states = [json.loads((checkpoint(out, step) / "train_state.json").read_text()) for out in (one, other)]
    for state in states:
        del state["config_sha256"]  # names the folder
    assert states[0] == states[1]
    assert rows(one) == rows(other)


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def said_by(lines: Sequence[str], words: str) -> list[str]:
    return [line for line in lines if words in line]
