"""How fast a GPT-2 124M trains here, in turn with transformers' GPT2LMHeadModel and the same fused AdamW.

A step is forward, loss, backward, clip and AdamW on batch 4 × 256 tokens, without dropout, fp32 weights, computed in
fp32 or under bf16 autocast, on the CPU with two threads. Each side lives in a process of its own, both import the
same packages; they take turns, the first of a round changing each time. Speed is the median step, memory is the
largest resident size after the imports: weights, moments, gradients and activations.

    python scripts/benchmarks/train_step.py                    fp32 and bf16
    python scripts/benchmarks/train_step.py bf16 --rounds 20
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SIDES = ("gptops", "transformers")
PRECISIONS = ("fp32", "bf16")
BATCH, TOKENS, THREADS = 4, 256, 2
WARM_UP, STEPS_A_TURN = 2, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("precision", nargs="?", choices=PRECISIONS, help="only this one")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each side")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        take_turns(options.side, options.precision)
        return
    precisions = [options.precision] if options.precision else PRECISIONS
    results = {precision: compared(precision, options.rounds) for precision in precisions}
    print(json.dumps(results))


def compared(precision: str, rounds: int) -> dict[str, Any]:
    """Both sides in one precision, measured in turn, and their ratios."""
    processes = {side: start(side, precision) for side in SIDES}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for side in SIDES:
        turn(processes[side], WARM_UP)
    for number in range(rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            seconds[side] += turn(processes[side], STEPS_A_TURN)
    peak_mb = {side: finish(processes[side]) for side in SIDES}
    speed = {side: BATCH * TOKENS / statistics.median(seconds[side]) for side in SIDES}
    ours, theirs = SIDES
    for side in SIDES:
        print(f"{precision}  {side:<12}  {speed[side]:7.1f} tok/s  peak {peak_mb[side]:7.1f} MB", file=sys.stderr)
    result = {
        "tokens_per_second": {side: round(speed[side], 1) for side in SIDES},
        "peak_mb": {side: round(peak_mb[side], 1) for side in SIDES},
        "speed_ratio": round(speed[ours] / speed[theirs], 3),
        "memory_ratio": round(peak_mb[ours] / peak_mb[theirs], 3),
    }
    print(
        f"{precision}  ratio         {result['speed_ratio']:7.3f} ×      memory {result['memory_ratio']:5.3f} ×",
        file=sys.stderr,
        flush=True,
    )
    return result


def start(side: str, precision: str) -> subprocess.Popen[str]:
    """One side, built and waiting for its turn."""
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(part for part in (str(root), os.environ.get("PYTHONPATH")) if part)
    threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
    environment = {**os.environ, **threads, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    argv = [sys.executable, __file__, precision, "--side", side]
    return subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def turn(process: subprocess.Popen[str], steps: int) -> list[float]:
    """Seconds of each of `steps` steps of one side, while the other waits."""
    return [float(second) for second in ask(process, str(steps))]


def finish(process: subprocess.Popen[str]) -> float:
    """Peak memory of one side in MB; its process ends."""
    (peak_mb,) = ask(process, "peak")
    process.communicate(timeout=60)
    return float(peak_mb)


def ask(process: subprocess.Popen[str], words: str) -> list[Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(words + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"error: a measured process died; exit code {process.wait(timeout=60)}")
    return list(json.loads(answer))


def take_turns(side: str, precision: str) -> None:
    """The measured process: reads a number of steps, takes them, answers with their seconds."""
    import torch
    import transformers  # noqa: F401 - both sides import both, so that memory counts the work alone

    from trainer.loop import optim  # noqa: F401
    from trainer.models import model  # noqa: F401

    torch.set_num_threads(THREADS)
    torch.manual_seed(1337)
    before_mb = memory_mb("VmRSS")
    step = our_step(precision) if side == "gptops" else their_step(precision)
    for line in sys.stdin:
        if line.strip() == "peak":
            print(json.dumps([memory_mb("VmHWM") - before_mb]), flush=True)
            return
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        print(json.dumps(seconds), flush=True)


def our_step(precision: str) -> Any:
    """One optimizer step as the engine takes it."""
    import torch

    from trainer.config import ModelConfig, OptimConfig
    from trainer.loop.optim import make_optimizer
    from trainer.models.model import GPT

    model = GPT(ModelConfig(preset="gpt2"))
    optimizer = make_optimizer(model, OptimConfig())
    rows = torch.randint(50257, (BATCH, TOKENS + 1))
    ids_BT, labels_BT = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss_sum = model(ids_BT, labels_BT).loss_sum
        (loss_sum / labels_BT.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def their_step(precision: str) -> Any:
    """The same step as one writes it with transformers: sdpa attention, its own loss, no key-value cache."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    model = GPT2LMHeadModel._from_config(GPT2Config(**off), attn_implementation="sdpa").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids_BT = torch.randint(50257, (BATCH, TOKENS))

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=ids_BT, labels=ids_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def memory_mb(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the most ever) of this process, from the Linux kernel."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(field)


if __name__ == "__main__":
    main()
