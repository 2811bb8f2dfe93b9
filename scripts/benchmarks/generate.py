"""How fast a GPT-2 124M writes here, in turn with transformers' `generate` on the very same weights.

Random weights, fp32, one thread, a key-value cache on both sides: a prompt of 32 tokens is followed by 64, for one
sequence taken greedily and for eight drawn with temperature 0.8 and top-k 50. Both sides live in one process and take
turns, the first of a round changing each time; speed is the median turn. Greedy ids are compared.

    python scripts/benchmarks/generate.py --rounds 8
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

THREADS = "1"
os.environ.update(OMP_NUM_THREADS=THREADS, MKL_NUM_THREADS=THREADS, HF_HUB_OFFLINE="1")

import torch  # noqa: E402 - after the number of threads
from transformers import GPT2Config, GPT2LMHeadModel, logging  # noqa: E402

from trainer.config import ModelConfig  # noqa: E402
from trainer.models.generate import generate_batch  # noqa: E402
from trainer.models.gpt2_weights import from_gpt2  # noqa: E402
from trainer.models.model import GPT  # noqa: E402
from trainer.models.sampling import Sampling  # noqa: E402

PROMPT, NEW = 32, 64
CASES = {"one, greedy": (1, Sampling(0.0)), "eight, drawn": (8, Sampling(0.8, top_k=50))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    logging.set_verbosity_error()
    torch.manual_seed(1337)
    theirs = GPT2LMHeadModel._from_config(GPT2Config(), attn_implementation="sdpa").eval()
    theirs.generation_config.pad_token_id = 50256
    theirs.generation_config.eos_token_id = None
    ours = GPT(ModelConfig(preset="gpt2")).eval()
    ours.load_state_dict(from_gpt2(theirs.state_dict(), ours.config))
    print(json.dumps({case: compared(case, ours, theirs, rounds) for case in CASES}))


def compared(case: str, ours: GPT, theirs: Any, rounds: int) -> dict[str, float]:
    """Tokens a second of both sides, and their ratio."""
    rows, sampling = CASES[case]
    prompts = torch.randint(50257, (rows, PROMPT), generator=torch.Generator().manual_seed(7))

    def our_turn() -> list[list[int]]:
        return [each.ids for each in generate_batch(ours, prompts.tolist(), max_tokens=NEW, sampling=sampling)]

    def their_turn() -> list[list[int]]:
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k}
        options = drawn if sampling.temperature else {"do_sample": False}
        mask = torch.ones_like(prompts)
        with torch.no_grad():
            out = theirs.generate(prompts, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, **options)
        ids: list[list[int]] = out[:, PROMPT:].tolist()
        return ids

    sides: dict[str, Callable[[], list[list[int]]]] = {"gptops": our_turn, "transformers": their_turn}
    first = {side: run() for side, run in sides.items()}  # warm
    if not sampling.temperature and first["gptops"] != first["transformers"]:
        sys.exit("error: the two sides wrote different ids")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            began = time.perf_counter()
            sides[side]()
            seconds[side].append(time.perf_counter() - began)
    speed = {side: rows * NEW / statistics.median(seconds[side]) for side in sides}
    ratio = speed["gptops"] / speed["transformers"]
    for side in sides:
        print(f"{case:<13} {side:<12}  {speed[side]:7.1f} tok/s", file=sys.stderr)
    print(f"{case:<13} ratio         {ratio:7.3f} ×", file=sys.stderr, flush=True)
    return {**{side: round(value, 1) for side, value in speed.items()}, "ratio": round(ratio, 3)}


if __name__ == "__main__":
    main()
