"""How many tokens a second the input pipeline feeds to one process, beside what the fastest training step consumes.

The pipeline is the pretraining stage as the engine calls it: the order of the samples, their rows out of mapped
shards, tensors on the device. The step beside it is the smallest network that anybody trains here, nanoGPT's CPU
recipe (4 layers, width 128, 12 rows of 64 characters), or GPT-2 124M in bf16 where there is a GPU: no step consumes
tokens faster. They take turns; speed is the median turn.

    python scripts/benchmarks/input_pipeline.py
    python scripts/benchmarks/input_pipeline.py --rounds 9
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from turns import tell

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from trainer.config import RunConfig, run_config  # noqa: E402
from trainer.data import prepare_all  # noqa: E402
from trainer.loop.optim import make_optimizer  # noqa: E402
from trainer.models.model import GPT  # noqa: E402
from trainer.stages.pretrain import PretrainStage  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = {"d_model": 128, "n_layers": 4, "n_heads": 4, "max_seq_len": 64}
LARGE = {"preset": "gpt2", "max_seq_len": 1024}
WANTED = 20
TURN_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more make so small a step no faster")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        model, rows = (LARGE, 32) if DEVICE.type == "cuda" else (SMALL, 12)
        taken: dict[str, Callable[[], int]] = {
            "step": step(settings(model, rows)),
            "same rows": fed(settings(model, rows), Path(scratch)),
            "rows of 1,024": fed(settings(LARGE, 16), Path(scratch)),
            "three sources": fed(settings(LARGE, 16, datasets=three_sources(Path(scratch))), Path(scratch) / "mixture"),
            "isolated": fed(settings(LARGE, 16, rows="isolated"), Path(scratch)),
        }
        turns: dict[str, list[float]] = {name: [] for name in taken}
        for number in range(options.rounds):
            tell(f"round {number + 1} of {options.rounds}")
            for name, take in taken.items():
                turns[name].append(speed(take))
    rates = {name: statistics.median(rate) for name, rate in turns.items()}
    for name, rate in rates.items():
        print(f"{name:<14} {rate:14,.0f} tok/s  {rate / rates['step']:10,.0f} x", file=sys.stderr)
    ratio = rates["same rows"] / rates["step"]
    print(f"{'ratio':<14} {ratio:,.0f}, wanted {WANTED}", file=sys.stderr)
    whole = {name: round(rate) for name, rate in rates.items()}
    print(json.dumps({"device": str(DEVICE), "tokens_per_second": whole, "ratio": round(ratio, 1)}))


def speed(take: Callable[[], int]) -> float:
    """Tokens a second of one turn, which begins after one call for nothing."""
    take()
    began, tokens = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < TURN_SECONDS:
        tokens += take()
    return tokens / seconds


def settings(model: dict[str, Any], batch: int, **data: Any) -> RunConfig:
    train = {"micro_batch_size": batch, "global_batch_size": batch}
    return run_config({"model": model, "train": train, "data": {"tokenizer": {"kind": "bytes"}, **data}}, source="here")


def three_sources(folder: Path) -> dict[str, float]:
    """The plays, cut in three."""
    text = (ROOT / "trainer" / "data" / "shakespeare.txt").read_text(encoding="utf-8")
    third = len(text) // 3
    for number in range(3):
        (folder / f"{number}.txt").write_text(text[number * third : (number + 1) * third], encoding="utf-8")
    return {str(folder / f"{number}.txt"): weight for number, weight in enumerate((0.5, 0.3, 0.2))}


def fed(config: RunConfig, folder: Path) -> Callable[[], int]:
    """Takes one micro-batch, as the engine does."""
    data = prepare_all(config.data, folder / "data")
    stage = PretrainStage(config, data, rank=0, num_processes=1, device=DEVICE)
    batches = stage.batches(torch.nn.Identity())
    return lambda: sum(batch.num_tokens for batch in itertools.islice(batches, 1))


def step(config: RunConfig) -> Callable[[], int]:
    """Takes one optimizer step on a batch that is there already."""
    torch.manual_seed(1337)
    model = GPT(config.model).to(DEVICE)
    optimizer = make_optimizer(model, config.optim)
    shape = (config.train.micro_batch_size, config.model.max_seq_len + 1)
    rows = torch.randint(config.model.vocab_size, shape, device=DEVICE)
    ids_BT, labels_BT = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def take() -> int:
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=DEVICE.type == "cuda"):
            loss_sum = model(ids_BT, labels_BT).loss_sum
        (loss_sum / labels_BT.numel()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return labels_BT.numel()

    return take


if __name__ == "__main__":
    main()
