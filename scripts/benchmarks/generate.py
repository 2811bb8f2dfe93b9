"""How fast a GPT-2 writes here, in turn with transformers' `generate` on the very same weights.

Random weights, a key-value cache on both sides: a prompt of 32 tokens is followed by 64, for one sequence taken
greedily and for eight drawn with temperature 0.8 and top-k 50. Sizes: GPT-2 124M; 10M, nanoGPT's character model; 0.8M,
its CPU recipe. With one thread, and with as many as the libraries take when nobody tells them, in a process of its own
each. Both sides live in that process and take turns, the first of a round changing each time; speed is the median turn.
In fp32 greedy ids must be equal; in bf16 both sides round, each in its own places. `memory` is what the threads read
when they sum a large tensor; beside it stands at what speed the weights are read for one sequence.

    python scripts/benchmarks/generate.py                                     all sizes, fp32 and bf16
    python scripts/benchmarks/generate.py fp32 --size 124M --threads all --rounds 12
    python scripts/benchmarks/generate.py --processor-time                    one thread, on a busy machine
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, logging
from turns import tell

from trainer.config import ModelConfig
from trainer.models.generate import generate_batch
from trainer.models.gpt2_weights import from_gpt2
from trainer.models.model import GPT
from trainer.models.sampling import Sampling

LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Read by torch and NumPy once, when they are loaded."""

THREADS: dict[str, dict[str, str]] = {"one": dict.fromkeys(LIMITS, "1"), "all": {}}
PROMPT, NEW = 32, 64
CASES = {"one, greedy": (1, Sampling(0.0)), "eight, drawn": (8, Sampling(0.8, top_k=50))}
SIZES: dict[str, dict[str, int]] = {
    "124M": {},
    "10M": {"n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 256, "vocab_size": 65},
    "0.8M": {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 128, "vocab_size": 65},
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("precision", nargs="?", choices=PRECISIONS, help="only this one")
    parser.add_argument("--size", choices=SIZES, help="only this one")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", choices=THREADS, help="only with so many")
    parser.add_argument("--processor-time", action="store_true", help="for a busy machine; with one thread")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in a process that was started for it
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measured(options)))
        return
    chosen = ["one"] if options.processor_time else [options.threads] if options.threads else list(THREADS)
    print(json.dumps({threads: apart(threads) for threads in chosen}))


def apart(threads: str) -> Any:
    """What is measured in a process with so many threads."""
    inherited = {name: value for name, value in os.environ.items() if name not in LIMITS}
    environment = {**inherited, **THREADS[threads], "HF_HUB_OFFLINE": "1"}
    argv = [sys.executable, __file__, *sys.argv[1:], "--here"]
    tell(f"threads: {threads}")
    process = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(process.stdout) if process.returncode == 0 else sys.exit(process.returncode)


def measured(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The figures of each size, precision and case."""
    logging.set_verbosity_error()
    results: dict[str, dict[str, Any]] = {}
    for size in [options.size] if options.size else SIZES:
        for precision in [options.precision] if options.precision else PRECISIONS:
            ours, theirs = models(size, PRECISIONS[precision])
            for case in CASES:
                found = compared(f"{size} {precision} {case}", CASES[case], ours, theirs, options)
                results.setdefault(size, {}).setdefault(precision, {})[case] = found
    return results


def models(size: str, dtype: torch.dtype) -> tuple[GPT, Any]:
    """The same random weights, ours and theirs."""
    torch.manual_seed(1337)
    config = GPT2Config(**SIZES[size], bos_token_id=0, eos_token_id=0)
    theirs = GPT2LMHeadModel._from_config(config, attn_implementation="sdpa").eval()
    theirs.generation_config.pad_token_id = 0
    theirs.generation_config.eos_token_id = None
    shape = {"d_model": config.n_embd, "n_layers": config.n_layer, "n_heads": config.n_head}
    ours = GPT(ModelConfig(**shape, max_seq_len=config.n_positions, vocab_size=config.vocab_size)).eval()
    ours.load_state_dict(from_gpt2(theirs.state_dict(), ours.config))
    return ours.to(dtype), theirs.to(dtype)


def compared(
    name: str, case: tuple[int, Sampling], ours: GPT, theirs: Any, options: argparse.Namespace
) -> dict[str, float]:
    """Tokens a second of both sides, and their ratio."""
    rows, sampling = case
    prompts = torch.randint(ours.config.vocab_size, (rows, PROMPT), generator=torch.Generator().manual_seed(7))
    sides = {
        "gptops": lambda: [
            each.ids for each in generate_batch(ours, prompts.tolist(), max_tokens=NEW, sampling=sampling)
        ],
        "transformers": lambda: written_by(theirs, prompts, sampling),
    }
    first = {side: run() for side, run in sides.items()}  # warm
    if not sampling.temperature and "fp32" in name and first["gptops"] != first["transformers"]:
        sys.exit(f"error: {name}: the two sides wrote different ids")
    speed = {side: rows * NEW / seconds for side, seconds in medians(name, sides, options).items()}
    ratio = speed["gptops"] / speed["transformers"]
    whole = {**{side: round(value, 1) for side, value in speed.items()}, "ratio": round(ratio, 3)}
    words = f"{name:<23} {torch.get_num_threads():>2} threads"
    words += f" {speed['gptops']:8.1f} tok/s  transformers {speed['transformers']:8.1f}  {ratio:6.3f} x"
    if rows == 1:
        read = sum(each.numel() * each.element_size() for each in ours.parameters()) * speed["gptops"] / 1e9
        memory = memory_gb_a_second()
        whole |= {"read_gb_a_second": round(read, 1), "memory_gb_a_second": round(memory, 1)}
        words += f"  weights {read:5.1f} GB/s, memory {memory:5.1f}"
    print(words, file=sys.stderr, flush=True)
    return whole


def written_by(theirs: Any, prompts: torch.Tensor, sampling: Sampling) -> list[list[int]]:
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k}
    chosen = drawn if sampling.temperature else {"do_sample": False}
    mask = torch.ones_like(prompts)
    with torch.no_grad():
        out = theirs.generate(prompts, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, **chosen)
    ids: list[list[int]] = out[:, PROMPT:].tolist()
    return ids


def medians(name: str, sides: dict[str, Callable[[], Any]], options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a turn."""
    clock = time.process_time if options.processor_time else time.perf_counter
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(options.rounds):
        tell(f"{name}: round {number + 1} of {options.rounds}")
        for side in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            began = clock()
            sides[side]()
            seconds[side].append(clock() - began)
    return {side: statistics.median(each) for side, each in seconds.items()}


def memory_gb_a_second() -> float:
    """What the threads read, at best: 512 MB, ten times."""
    large, best = torch.ones(2**27), float("inf")
    for _ in range(10):
        began = time.perf_counter()
        large.sum()
        best = min(best, time.perf_counter() - began)
    return large.numel() * 4 / best / 1e9


if __name__ == "__main__":
    main()
