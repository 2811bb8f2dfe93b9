"""How long to a validation loss of 1.88 on tinyshakespeare, beside nanoGPT's CPU recipe for the same size.

Both learn characters with context 64, 4 layers, 4 heads, width 128, from the first nine tenths of the text; the loss is
measured on the whole last tenth, in rows of 64, after the last step. nanoGPT's recipe is written from its published
hyperparameters (`preset: shakespeare-char-gpt2`): 2,000 steps of 12 random rows, AdamW, fp32, and runs on our GPT-2
without biases, which is its network with the tanh GELU. Ours is `preset: shakespeare-char` as it ships, in the
precision that `auto` chooses. Both vocabularies are those of the presets: 257 bytes.

They take turns of a tenth of their steps, in processes of their own with one thread each, so that whatever else the
machine does befalls both; time is the wall time of training steps alone, without evaluation, and processor time beside
it, which a busy machine disturbs less.

    python scripts/benchmarks/time_to_loss.py DATA            one run of each
    python scripts/benchmarks/time_to_loss.py DATA --seed 2
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDES = {"gptops": "shakespeare-char", "nanoGPT's recipe": "shakespeare-char-gpt2"}
TARGET = 1.88
TURNS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="tinyshakespeare as one text file")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=SIDES, help="measure one side")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="laid over the preset of gptops, to try")
    options = parser.parse_intermixed_args()
    if options.side:
        train_in_turns(options)
        return
    results = compared(options)
    print(json.dumps(results))


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides, in turn, and their ratio."""
    names = [options.only] if options.only else list(SIDES)
    processes = {name: start(name, options) for name in names}
    for _ in range(TURNS):
        for process in processes.values():
            ask(process, "train")
    results = {name: ask(process, "evaluate") for name, process in processes.items()}
    for name, result in results.items():
        processes[name].communicate(timeout=60)
        print(
            f"{name:<16}  {result['steps']:5} steps  {result['seconds']:6.1f} s  cpu {result['cpu_seconds']:6.1f} s  "
            f"val {result['val_loss']:.4f}",
            file=sys.stderr,
        )
    if len(results) == 1:
        return results
    ours, theirs = results.values()
    ratios = {f"{key}_ratio": round(ours[key] / theirs[key], 3) for key in ("seconds", "cpu_seconds")}
    print(f"time ratio        {ratios['seconds_ratio']:.3f}  cpu {ratios['cpu_seconds_ratio']:.3f}", file=sys.stderr)
    return {**results, **ratios, "target": TARGET, "reached": ours["val_loss"] <= TARGET}


def start(name: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    """One side, built and waiting for its turn."""
    root = Path(__file__).resolve().parents[2]
    threads = str(options.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(root)}
    argv = [sys.executable, __file__, str(options.data), "--side", name, "--seed", str(options.seed)]
    argv += ["--threads", threads, *(options.overrides if name == "gptops" else [])]
    return subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str], words: str) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(words + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"error: a measured process died; exit code {process.wait(timeout=60)}")
    return json.loads(answer)


def train_in_turns(options: argparse.Namespace) -> None:
    """The measured process: trains a tenth of its steps each time it is told to, then answers with its loss."""
    import torch

    from trainer.config import run_config

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    config = run_config(
        {"preset": SIDES[options.side], "seed": options.seed}, source=options.side, overrides=options.overrides
    )
    tokens = torch.frombuffer(bytearray(options.data.read_bytes()), dtype=torch.uint8).long()
    split = int(0.9 * len(tokens))
    step, evaluate = prepared(config, tokens[:split], tokens[split:], is_ours=options.side == "gptops")
    seconds = cpu_seconds = 0.0
    done = 0
    for line in sys.stdin:
        if line.strip() == "evaluate":
            result = {"steps": done, "seconds": seconds, "cpu_seconds": cpu_seconds, "val_loss": evaluate()}
            print(json.dumps(result), flush=True)
            return
        began, began_cpu = time.perf_counter(), time.process_time()
        for _ in range(config.train.max_steps // TURNS):
            step(done)
            done += 1
        seconds += time.perf_counter() - began
        cpu_seconds += time.process_time() - began_cpu
        print(json.dumps(done), flush=True)


def prepared(config: Any, train: Any, val: Any, *, is_ours: bool) -> tuple[Callable[[int], None], Callable[[], float]]:
    """A step of one side, as the engine takes it, and the loss on the whole validation split."""
    import numpy as np
    import torch

    from trainer.data.order import order
    from trainer.loop.optim import make_optimizer, set_lr
    from trainer.loop.precision import chosen_precision
    from trainer.models.build import build_model
    from trainer.schedule import lr_of

    model, batch, context = build_model(config.model), config.train.global_batch_size, config.model.max_seq_len
    optimizer = make_optimizer(model, config.optim)
    half = is_ours and chosen_precision("auto", "cpu") == "bf16"
    within = torch.arange(context + 1)
    num_rows = (len(train) - 1) // context
    generator = torch.Generator().manual_seed(config.seed)

    def rows_of(step: int) -> Any:
        """Ours in the engine's order, each row once an epoch; nanoGPT's at random places."""
        if is_ours:
            samples = np.arange(step * batch, (step + 1) * batch)
            starts = torch.from_numpy(order(config.seed, samples, num_rows).astype(np.int64)) * context
        else:
            starts = torch.randint(len(train) - context, (batch,), generator=generator)
        return train[starts[:, None] + within]

    def loss_of(rows: Any, part: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            return part(rows[:, :-1], rows[:, 1:]).loss_sum

    def take_step(step: int) -> None:
        rows = rows_of(step)
        (loss_of(rows, model) / (batch * context)).backward()
        if config.optim.grad_clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip)
        set_lr(optimizer, lr_of(step, config))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def evaluate() -> float:
        rows = val[torch.arange((len(val) - 1) // context)[:, None] * context + within]
        with torch.no_grad():  # in fp32 for both
            total = sum(model(part[:, :-1], part[:, 1:]).loss_sum.item() for part in rows.split(64))
        return float(total / (rows.shape[0] * context))

    return take_step, evaluate


if __name__ == "__main__":
    main()
