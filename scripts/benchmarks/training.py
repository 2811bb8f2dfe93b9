"""How fast a whole training goes here, in turn with transformers' `Trainer`: data, loop, clipping, guards, log and all.

train_step.py compares bare steps; this compares what people start. Both sides train GPT-2 of the same size on the same
rows, bytes of the plays that ship here: ours by the engine's loop over its prepared shards, the other by
`Trainer.train()` with its defaults, but for what is then alike on both sides: batch, length, number format, AdamW's
settings, the clip, no dropout, sdpa attention, nothing saved or sent. Each side lives in a process of its own; they
take turns, the first of a round changing each time. Speed is the median step, memory the largest resident size after
the imports.

    python scripts/benchmarks/training.py                        both sizes, fp32 and bf16
    python scripts/benchmarks/training.py bf16 --size 10M --rounds 20
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import turns
from own_training import train_paced
from train_step import PRECISIONS, SIZES
from turns import memory_mb

SIDES = ("gptops", "Trainer")
VOCABULARY = {"124M": 50257, "10M": 257}
"""Ids are bytes on both sides; GPT-2 has all its embeddings nevertheless."""
_STEPS = 10**6
_ROWS = 4096


def main() -> None:
    options = parsed()
    if options.side:
        measured(options)
        return
    sizes = [options.size] if options.size else list(SIZES)
    precisions = [options.precision] if options.precision else PRECISIONS
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = Path(scratch)
        results = {size: {precision: compared(size, precision, options) for precision in precisions} for size in sizes}
    print(json.dumps(results))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("precision", nargs="?", choices=PRECISIONS, help="only this one")
    parser.add_argument("--size", choices=SIZES, help="only this one")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side, a step each")
    parser.add_argument("--threads", type=int, default=2, help="of the processor, for each side")
    parser.add_argument("--processor-time", action="store_true", help="for a busy machine; sensible with one thread")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compared(size: str, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides, measured in turn, and their ratios."""
    sides = {side: start(side, size, precision, options) for side in SIDES}
    seconds = turns.in_turn(sides, warm_up=2, rounds=options.rounds, steps=1)
    peak_mb = {side: turns.finish(process) for side, process in sides.items()}
    tokens = SIZES[size].batch * SIZES[size].tokens
    speed = {side: tokens / statistics.median(found) for side, found in seconds.items()}
    ratios = {
        "speed_ratio": round(speed["gptops"] / speed["Trainer"], 3),
        "memory_ratio": round(peak_mb["gptops"] / peak_mb["Trainer"], 3),
    }
    print(
        f"{size}  {precision}  gptops {speed['gptops']:8.1f} tok/s {peak_mb['gptops']:8.1f} MB  "
        f"Trainer {speed['Trainer']:8.1f} tok/s {peak_mb['Trainer']:8.1f} MB  "
        f"{ratios['speed_ratio']:6.3f} x   memory {ratios['memory_ratio']:6.3f} x",
        file=sys.stderr,
        flush=True,
    )
    rounded = {side: round(found, 1) for side, found in speed.items()}
    return {"tokens_per_second": rounded, "peak_mb": {side: round(mb, 1) for side, mb in peak_mb.items()}, **ratios}


def start(side: str, size: str, precision: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    """One side, built and waiting for its turn."""
    argv = [sys.executable, __file__, precision, "--size", size, "--side", side, "--folder", str(options.folder)]
    argv += ["--threads", str(options.threads)]
    return turns.start([*argv, *(["--processor-time"] if options.processor_time else [])], options.threads)


# --- a measured process ----------------------------------------------------------------------------------------------


def measured(options: argparse.Namespace) -> None:
    """Train until told to finish."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a training prints is no answer
    import torch

    # Every side imports what either needs, so that memory counts the work alone.
    from transformers import GPT2LMHeadModel, Trainer

    import trainer.loop.start

    assert all((GPT2LMHeadModel, Trainer, trainer.loop.start))
    torch.set_num_threads(options.threads)
    before_mb = memory_mb("VmRSS")
    pace = turns.Pace(answers, lambda: memory_mb("VmHWM") - before_mb, processor_time=options.processor_time)
    settings = settings_of(options)
    if options.side == "gptops":
        train_paced("pretrain", settings, pace)
    else:
        train_by_transformers(settings, options, pace)


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Our side's configuration, from which the other takes its rows and its optimizer."""
    size = SIZES[options.size]
    shape = {"d_model": size.d_model, "n_layers": size.layers, "n_heads": size.heads, "max_seq_len": 1024}
    return {
        "out_dir": str(options.folder / f"{options.size}-{options.precision}-{options.side}"),
        "model": {**shape, "vocab_size": VOCABULARY[options.size]},
        "data": {"tokenizer": {"kind": "bytes"}, "seq_len": size.tokens},
        "train": {
            "max_steps": _STEPS,
            "global_batch_size": size.batch,
            "micro_batch_size": size.batch,
            "precision": options.precision,
            "device": "cpu",
        },
        "schedule": {"kind": "constant", "warmup_steps": 0},
        "checkpoint": {"every_steps": _STEPS},
        "eval": {"every_steps": _STEPS},
    }


def train_by_transformers(settings: dict[str, Any], options: argparse.Namespace, pace: turns.Pace) -> None:
    """As its documentation trains a causal language model."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, logging

    from trainer.config import run_config

    class Edges(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            pace.edge()

    logging.set_verbosity_error()
    config = run_config(settings, source="bench")
    size, optim = SIZES[options.size], config.optim
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    shape = {
        "n_embd": size.d_model,
        "n_layer": size.layers,
        "n_head": size.heads,
        "vocab_size": VOCABULARY[options.size],
    }
    network = GPT2Config(**off, **shape, bos_token_id=0, eos_token_id=0)
    arguments = TrainingArguments(
        output_dir=settings["out_dir"],
        per_device_train_batch_size=size.batch,
        max_steps=_STEPS,
        bf16=options.precision == "bf16",
        use_cpu=True,
        learning_rate=optim.lr,
        lr_scheduler_type="constant",
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.grad_clip,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    model = GPT2LMHeadModel._from_config(network, attn_implementation="sdpa")
    Trainer(model, arguments, train_dataset=rows_of(config, settings), callbacks=[Edges()]).train()


def rows_of(config: Any, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The first rows that our side trains on."""
    import itertools

    import torch
    from torch import nn

    from trainer.data import prepare_all
    from trainer.stages.pretrain import PretrainStage

    data = prepare_all(config.data, Path(settings["out_dir"]) / "data")
    stage = PretrainStage(config, data, rank=0, num_processes=1, device=torch.device("cpu"))
    batches = itertools.islice(stage.batches(nn.Identity()), _ROWS // config.train.micro_batch_size)
    return [{"input_ids": row, "labels": row} for batch in batches for row in batch.ids_BT]


if __name__ == "__main__":
    main()
