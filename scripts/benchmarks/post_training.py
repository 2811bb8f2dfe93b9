"""How fast post-training goes here, in turn with TRL's trainers, and how much memory it takes.

Every step has the same rows on both sides (post_training_rows.py), ours by the engine's own loop, TRL's by
`Trainer.train()`. Cases and sides:

    sft    gptops packs its rows, as it does by default; gptops_ragged and trl pad them
    dpo    gptops and trl have the log-probabilities of the reference cached; trl_reference is TRL's default, which
           holds a second model and asks it in every step
    grpo   two prompts, eight completions each: sampled, rewarded, learnt from in one step

Sizes: `124M` is GPT-2; `tiny` is 64 wide, 2 layers. Each side lives in a process of its own; they take turns, the first
of a round changing each time. Speed is the median step, memory the largest resident size after the imports.

    python scripts/benchmarks/post_training.py                     all cases (about 7 minutes on two cores)
    python scripts/benchmarks/post_training.py dpo --size tiny --rounds 10 --threads 1 --processor-time
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
from post_training_rows import SIZES, prepare, settings
from turns import memory_mb

SIDES = {
    "sft": ("gptops", "gptops_ragged", "trl"),
    "dpo": ("gptops", "trl", "trl_reference"),
    "grpo": ("gptops", "trl"),
}
STEPS_A_TURN = {"tiny": 8, "124M": 1}


def main() -> None:
    options = parsed()
    if options.side:
        measured(options)
        return
    cases = [options.case] if options.case else list(SIDES)
    sizes = (options.size,) if options.size else tuple(SIZES)
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch), sizes)
        results = {case: {size: compared(case, size, Path(scratch), options) for size in sizes} for case in cases}
    print(json.dumps(results))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=SIDES, help="only this one")
    parser.add_argument("--size", choices=SIZES, help="only this one")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--threads", type=int, default=2, help="of the processor, for each side")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="TRL's default is bf16")
    parser.add_argument("--processor-time", action="store_true", help="for a busy machine; sensible with one thread")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compared(case: str, size: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All sides of a case, measured in turn, and their ratios."""
    names = SIDES[case]
    sides = {name: start(case, size, name, folder, options) for name in names}
    steps = STEPS_A_TURN[size]
    seconds = turns.in_turn(sides, warm_up=steps, rounds=options.rounds, steps=steps)
    peak_mb = {name: turns.finish(process) for name, process in sides.items()}
    step = {name: statistics.median(found) for name, found in seconds.items()}
    for name in names:
        beside = f"  {step[name] / step['gptops']:6.2f} x   memory {peak_mb['gptops'] / peak_mb[name]:5.2f} x"
        print(
            f"{case:<5} {size:<5} {name:<14} {1000 * step[name]:9.1f} ms a step  peak {peak_mb[name]:8.1f} MB"
            + (beside if name != "gptops" else ""),
            file=sys.stderr,
            flush=True,
        )
    return {
        "step_seconds": {name: round(found, 5) for name, found in step.items()},
        "peak_mb": {name: round(found, 1) for name, found in peak_mb.items()},
        # The two that the README quotes.
        "speed_ratio": round(step["trl"] / step["gptops"], 3),
        "memory_ratio": round(peak_mb["gptops"] / peak_mb[names[-1]], 3),
    }


def start(case: str, size: str, side: str, folder: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    """One side, built and waiting for its turn."""
    argv = [sys.executable, __file__, case, "--size", size, "--side", side, "--folder", str(folder)]
    argv += ["--threads", str(options.threads), "--precision", options.precision]
    return turns.start([*argv, *(["--processor-time"] if options.processor_time else [])], options.threads)


# --- a measured process ----------------------------------------------------------------------------------------------


def measured(options: argparse.Namespace) -> None:
    """Train until told to finish."""
    os.environ["TQDM_DISABLE"] = "1"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a training prints, its children too, is no answer
    import post_training_trl
    import torch

    # Every side imports what either needs, so that memory counts the work alone.
    from transformers import GPT2LMHeadModel
    from trl import DPOTrainer, GRPOTrainer, SFTTrainer

    import trainer.loop.start

    assert all((GPT2LMHeadModel, DPOTrainer, GRPOTrainer, SFTTrainer, trainer.loop.start))
    torch.set_num_threads(options.threads)
    before_mb = memory_mb("VmRSS")
    pace = turns.Pace(answers, lambda: memory_mb("VmHWM") - before_mb, processor_time=options.processor_time)
    given = (options.case, options.side, options.size, options.folder, options.precision)
    if options.side.startswith("gptops"):
        train_paced(options.case, settings(*given), pace)
    else:
        post_training_trl.trained(*given, pace)


if __name__ == "__main__":
    main()
