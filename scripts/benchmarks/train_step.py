"""How fast a GPT trains here, in turn with transformers, and with litgpt and nanoGPT's model where they can be had.

A step is forward, loss, backward, clip and AdamW without dropout, fp32 weights, computed in fp32 or bf16 autocast,
on random tokens. Sizes: `124M` is GPT-2, batch 4 x 256 tokens; `10M` is nanoGPT's character model, 384 wide, 6 layers,
65 characters, batch 16 x 256. Every side has the same optimizer, torch's fused AdamW. litgpt has no GPT-2: it is its
NeoX of the same width, depth and vocabulary, with a head of its own. nanoGPT has the exact GELU, which torch computes
faster than GPT-2's; with `--same-gelu` it gets GPT-2's too. Each side lives in a process of its own; they take turns,
the first of a round changing each time. Speed is the median step, memory is the largest resident size after the
imports, on a GPU what PyTorch allocated at most. A peer that fails is left out.

    python scripts/benchmarks/train_step.py                               both sizes, fp32 and bf16
    python scripts/benchmarks/train_step.py bf16 --size 10M --rounds 20
    python scripts/benchmarks/train_step.py --litgpt VENV/bin/python --nanogpt CHECKOUT
    GPTOPS_BENCH_LITGPT=VENV/bin/python GPTOPS_BENCH_NANOGPT=CHECKOUT scripts/bench train_step
    python scripts/benchmarks/train_step.py bf16 --device cuda --batch 16 --tokens 1024 --compile
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import turns
from turns import memory_mb

SIDES = ("gptops", "transformers", "litgpt", "nanogpt")
PRECISIONS = ("fp32", "bf16")
WARM_UP, STEPS_A_TURN = 2, 1


@dataclass(frozen=True)
class Size:
    """A model and a batch."""

    d_model: int
    layers: int
    heads: int
    vocabulary: int
    batch: int
    tokens: int = 256


SIZES = {"124M": Size(768, 12, 12, 50257, batch=4), "10M": Size(384, 6, 6, 65, batch=16)}


def main() -> None:
    options = parsed()
    if options.side:
        take_turns(options)
        return
    results: dict[str, dict[str, Any]] = {}
    precisions = [options.precision] if options.precision else PRECISIONS
    for size in [options.size] if options.size else SIZES:
        options.size = size
        results[size] = {precision: compared(precision, options) for precision in precisions}
    print(json.dumps(results))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("precision", nargs="?", choices=PRECISIONS, help="only this one")
    parser.add_argument("--size", choices=SIZES, help="only this one")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side, a step each")
    parser.add_argument("--threads", type=int, default=2, help="of the processor, for each side")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="sequences, instead of the size's own")
    parser.add_argument("--tokens", type=int, help="per sequence, instead of 256")
    parser.add_argument("--compile", action="store_true", help="torch.compile every model")
    parser.add_argument(
        "--litgpt",
        metavar="PYTHON",
        default=os.environ.get("GPTOPS_BENCH_LITGPT"),
        help="an interpreter that has litgpt and this one's packages (GPTOPS_BENCH_LITGPT)",
    )
    parser.add_argument(
        "--nanogpt",
        metavar="DIR",
        default=os.environ.get("GPTOPS_BENCH_NANOGPT"),
        help="a checkout of nanoGPT: its model.py (GPTOPS_BENCH_NANOGPT)",
    )
    parser.add_argument("--same-gelu", action="store_true", help="GPT-2's GELU in nanoGPT too")
    parser.add_argument("--processor-time", action="store_true", help="for a busy machine; sensible with one thread")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def compared(precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """All sides in one precision, measured in turn, and their ratios."""
    processes = started(precision, options)
    seconds = turns.in_turn(processes, warm_up=WARM_UP, rounds=options.rounds, steps=STEPS_A_TURN, peers=SIDES[1:])
    peak_mb = {side: turns.finish(processes[side]) for side in seconds}
    size = sized(options)
    speed = {side: size.batch * size.tokens / statistics.median(seconds[side]) for side in seconds}
    peers = list(seconds)[1:]
    faster = {side: round(speed["gptops"] / speed[side], 3) for side in peers}
    larger = {side: round(peak_mb["gptops"] / peak_mb[side], 3) for side in peers}
    for side in seconds:
        beside = f"  {faster[side]:6.3f} x   memory {larger[side]:6.3f} x" if side in peers else ""
        print(
            f"{options.size}  {precision}  {side:<12}  {speed[side]:9.1f} tok/s  peak {peak_mb[side]:8.1f} MB{beside}",
            file=sys.stderr,
            flush=True,
        )
    return {
        "tokens_per_second": {side: round(value, 1) for side, value in speed.items()},
        "peak_mb": {side: round(value, 1) for side, value in peak_mb.items()},
        "speed_ratio": faster,
        "memory_ratio": larger,
        "left_out": [side for side in SIDES if side not in seconds],
    }


def sized(options: argparse.Namespace) -> Size:
    own = SIZES[options.size]
    batch, tokens = options.batch or own.batch, options.tokens or own.tokens
    return Size(own.d_model, own.layers, own.heads, own.vocabulary, batch, tokens)


def started(precision: str, options: argparse.Namespace) -> dict[str, subprocess.Popen[str]]:
    """The sides that can be had."""
    processes = {}
    for side in SIDES:
        if side in ("gptops", "transformers") or getattr(options, side):
            try:
                processes[side] = start(side, precision, options)
            except OSError as error:
                print(f"{side} is left out: {error}", file=sys.stderr, flush=True)
    return processes


def start(side: str, precision: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    """One side, built and waiting for its turn."""
    interpreter = options.litgpt if side == "litgpt" else sys.executable
    argv = [interpreter, __file__, precision, "--side", side, "--size", options.size, "--device", options.device]
    argv += ["--threads", str(options.threads)]
    flags = ("compile", "processor_time", "same_gelu")
    argv += [f"--{name.replace('_', '-')}" for name in flags if getattr(options, name)]
    argv += [f"--batch={sized(options).batch}", f"--tokens={sized(options).tokens}"]
    return turns.start(argv, options.threads, *([options.nanogpt] if side == "nanogpt" else []))


def take_turns(options: argparse.Namespace) -> None:
    """The measured process."""
    sys.stdout, answers = sys.stderr, sys.stdout  # what a peer prints is no answer
    import torch
    import transformers  # noqa: F401 - every side imports it, so that memory counts the work alone

    from trainer.loop import optim  # noqa: F401
    from trainer.loop.allocator import keep_freed_memory
    from trainer.models import build  # noqa: F401

    if options.side == "gptops" and options.device == "cpu":
        keep_freed_memory()  # as every training here
    torch.set_num_threads(options.threads)
    torch.manual_seed(1337)
    on_gpu = options.device == "cuda"
    before_mb = memory_mb("VmRSS")
    step = step_of(options)

    def peak_mb() -> float:
        return torch.cuda.max_memory_allocated() / 1e6 if on_gpu else memory_mb("VmHWM") - before_mb

    pace = turns.Pace(answers, peak_mb, processor_time=options.processor_time)
    while True:
        pace.edge()
        step()
        if on_gpu:
            torch.cuda.synchronize()


def step_of(options: argparse.Namespace) -> Any:
    """One optimizer step of a side; `loss_of` is what its own training code does with a batch."""
    import torch

    size, device = sized(options), options.device
    made = {"gptops": ours, "transformers": of_transformers, "litgpt": of_litgpt, "nanogpt": of_nanogpt}[options.side]
    with torch.device(device):
        model, loss_of = made(size, options.compile)
        if options.side == "nanogpt" and options.same_gelu:
            for block in model.transformer.h:
                block.mlp.gelu.approximate = "tanh"
        rows = torch.randint(size.vocabulary, (size.batch, size.tokens + 1))
    if options.side == "gptops":
        from trainer.config import OptimConfig
        from trainer.loop.optim import make_optimizer

        optimizer = make_optimizer(model, OptimConfig())
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids, labels = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=options.precision == "bf16"):
            loss = loss_of(ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def compiled(model: Any, wanted: bool) -> Any:
    import torch

    return torch.compile(model) if wanted else model


def ours(size: Size, wants_compiled: bool) -> tuple[Any, Any]:
    from trainer.config import ModelConfig
    from trainer.models.model import GPT

    model = GPT(
        ModelConfig(
            d_model=size.d_model,
            n_layers=size.layers,
            n_heads=size.heads,
            max_seq_len=max(1024, size.tokens),
            vocab_size=size.vocabulary,
        )
    )
    forward = compiled(model, wants_compiled)
    return model, lambda ids, labels: forward(ids, labels).loss_sum / labels.numel()


def of_transformers(size: Size, wants_compiled: bool) -> tuple[Any, Any]:
    """As one writes it with transformers: sdpa attention, its own loss, no key-value cache."""
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    shape = {"n_embd": size.d_model, "n_layer": size.layers, "n_head": size.heads, "vocab_size": size.vocabulary}
    config = GPT2Config(**off, **shape, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel._from_config(config, attn_implementation="sdpa").train()
    forward = compiled(model, wants_compiled)
    return model, lambda ids, labels: forward(input_ids=ids, labels=ids).loss


def of_litgpt(size: Size, wants_compiled: bool) -> tuple[Any, Any]:
    """As its pretraining script: logits, then its chunked cross entropy."""
    from litgpt.model import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        block_size=max(1024, size.tokens),
        n_layer=size.layers,
        n_head=size.heads,
        n_embd=size.d_model,
        padded_vocab_size=size.vocabulary,
        vocab_size=size.vocabulary,
        rotary_percentage=1.0,
        parallel_residual=False,
        gelu_approximate="tanh",
    )
    model = GPT(config)
    forward = compiled(model, wants_compiled)
    return model, lambda ids, labels: chunked_cross_entropy(forward(ids), labels)


def of_nanogpt(size: Size, wants_compiled: bool) -> tuple[Any, Any]:
    """Its model.py, as its train.py calls it."""
    from model import GPT, GPTConfig  # of the checkout

    config = GPTConfig(
        block_size=max(1024, size.tokens),
        vocab_size=size.vocabulary,
        n_layer=size.layers,
        n_head=size.heads,
        n_embd=size.d_model,
        dropout=0.0,
        bias=True,
    )
    model = GPT(config)
    forward = compiled(model, wants_compiled)
    return model, lambda ids, labels: forward(ids, labels)[1]


if __name__ == "__main__":
    main()
