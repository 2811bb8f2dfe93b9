"""What a training shows while it runs: a line on the console and a row in metrics.jsonl, both from rank 0.

Looking changes nothing: a sample is drawn from a generator of its own, and what takes time here is not counted as
training.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from trainer.config import RunConfig
from trainer.console import Console
from trainer.loop.distributed import World
from trainer.loop.metrics import FILE_NAME, Meter, MetricsFile, StepRow, peak_memory_gib
from trainer.loop.step import Gradients
from trainer.models.generate import generate
from trainer.models.model import GPT
from trainer.schedule import lr_of
from trainer.sizing import mfu
from trainer.tokenizer import Tokenizer


class Reporter:
    """The record of one run, as this rank keeps it."""

    def __init__(self, config: RunConfig, world: World, console: Console) -> None:
        self._config, self._world, self._console = config, world, console
        self._metrics = MetricsFile(Path(config.out_dir) / FILE_NAME)
        self._meter = Meter()
        self._gpu = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else ""

    def drop_after(self, step: int) -> None:
        """Forget the rows beyond the step a run resumes from. Rank 0 alone."""
        self._metrics.drop_after(step)

    def count(self, gradients: Gradients) -> None:
        """One more step was taken."""
        self._meter.count(gradients.tokens)

    def paused(self) -> AbstractContextManager[None]:
        """What happens in here is not training."""
        return self._meter.paused()

    def show_step(self, step: int, tokens: int, gradients: Gradients) -> None:
        """Loss, rate, throughput; `tokens` are those of the whole run so far."""
        rate = self._meter.tokens_per_second()
        row = StepRow(
            step=step,
            loss=gradients.loss,
            lr=lr_of(step - 1, self._config),
            grad_norm=gradients.grad_norm,
            tokens=tokens,
            tokens_per_second=rate,
            mfu=mfu(rate, self._config.model, self._gpu, self._world.num_processes) if self._gpu else None,
            memory_gib=peak_memory_gib(self._world.device),
        )
        max_steps = self._config.train.max_steps
        self._record(row.as_dict(gradients.metrics), row.line(max_steps, self._meter.seconds_for(max_steps - step)))

    def show_validation(self, step: int, loss: float) -> None:
        """The loss on the validation batches."""
        self._record({"step": step, "val_loss": loss}, f"{self._progress(step)}  val loss {loss:.4f}")

    def show_sample(self, step: int, model: GPT, tokenizer: Tokenizer) -> None:
        """What the (unwrapped) model writes; only rank 0 lets it."""
        if not self._world.is_first:
            return
        sample = self._config.sample
        with self._world.autocast():
            ids = generate(
                model,
                tokenizer.encode(sample.prompt) or [tokenizer.eot_id],
                max_tokens=sample.max_tokens,
                temperature=sample.temperature,
                top_k=sample.top_k,
                top_p=sample.top_p,
                seed=sample.seed,
                stop_id=tokenizer.eot_id,
            )
        text = sample.prompt + tokenizer.decode(ids)
        self._record({"step": step, "sample": text}, f"{self._progress(step)}  sample {text!r}")

    def _progress(self, step: int) -> str:
        return f"step {step}/{self._config.train.max_steps}"

    def _record(self, row: dict[str, Any], line: str) -> None:
        if self._world.is_first:
            self._metrics.append(row)
            self._console.say(line)
