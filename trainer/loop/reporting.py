"""What a training shows while it runs: a line on the console, a row in metrics.jsonl and in every tracker; rank 0 does.

Looking changes nothing: a sample is drawn from a generator of its own, and what takes time here is not counted as
training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.checkpoints.checkpoint import TrainState
from trainer.config import RunConfig
from trainer.console import Console
from trainer.loop.distributed import World
from trainer.loop.metrics import FILE_NAME, Meter, MetricsFile, StepRow, peak_memory_gib
from trainer.loop.step import Gradients
from trainer.loop.validation import Validation
from trainer.models.generate import generate
from trainer.schedule import lr_of
from trainer.sizing import mfu
from trainer.stages.base import Reporting, Stage
from trainer.tokenizer import Tokenizer
from trainer.trackers import TrackedRun, Trackers
from trainer.trackers.run_id import run_id


class Reporter:
    """The record of one run, as this rank keeps it."""

    def __init__(self, config: RunConfig, world: World, console: Console) -> None:
        self._config, self._world, self._console = config, world, console
        self._metrics = MetricsFile(Path(config.out_dir) / FILE_NAME)
        self._trackers = Trackers(config.log.trackers, console)
        self.run_id = ""
        """Under which trackers know the run; "" where there are none. Known to rank 0 alone."""
        self._meter = Meter()
        self._gpu = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else ""

    def resume_from(self, state: TrainState) -> None:
        """Go on under the same id."""
        self.run_id = state.run_id

    def open(self, step: int) -> None:
        """Open the trackers, at the step the run begins with. Rank 0 alone. Raises EngineError."""
        if not self._config.log.trackers:
            return
        out_dir = Path(self._config.out_dir)
        self.run_id = run_id(out_dir, self.run_id)
        name = os.environ.get("GPTOPS_RUN_ID") or out_dir.resolve().name
        config = self._config.model_dump(mode="json")
        self._trackers.open(TrackedRun(self.run_id, name, self._config.log.project, out_dir, config, step))

    def begin(self) -> None:
        """The first step begins now: what came before is not training."""
        self._meter = Meter()

    def close(self) -> None:
        """Let the trackers send what they still have."""
        self._trackers.close()

    def drop_after(self, step: int) -> None:
        """Forget the rows beyond the step a run resumes from. Rank 0 alone."""
        self._metrics.drop_after(step)

    def count(self, gradients: Gradients) -> None:
        """One more step was taken."""
        self._meter.count(gradients.tokens)

    def paused(self) -> AbstractContextManager[None]:
        """What happens in here is not training."""
        return self._meter.paused()

    def show_step(
        self, step: int, tokens: int, gradients: Gradients, stage: Stage[Any], state: Mapping[str, Any]
    ) -> None:
        """Loss, rate, throughput; `tokens` are those of the whole run so far, `state` is where the stage stands."""
        rate = self._meter.tokens_per_second()
        row = StepRow(
            step=step,
            loss=gradients.loss,
            lr=lr_of(step - 1, self._config),
            grad_norm=gradients.grad_norm,
            tokens=tokens,
            tokens_per_second=rate,
            mfu=mfu(rate, self._config.model, self._gpu, self._world.num_processes, self._config.lora)
            if self._gpu
            else None,
            memory_gib=peak_memory_gib(self._world.device),
        )
        max_steps = self._config.train.max_steps
        extra = {**gradients.metrics, **(stage.row_metrics(state) if isinstance(stage, Reporting) else {})}
        self._record(row.as_dict(extra), row.line(max_steps, self._meter.seconds_for(max_steps - step)))

    def show_skipped(self, step: int, skipped_steps: int) -> None:
        """That a step changed nothing; the guard has said so and has the details."""
        self._record({"step": step, "skipped_steps": skipped_steps})

    def show_validation(self, step: int, validation: Validation) -> None:
        """The loss on the validation batches."""
        loss = validation.loss
        assert loss is not None, "nothing was measured"
        patience = self._config.eval.patience
        worse = (
            f"  (no lower in {validation.since_lowest} of {patience})" if patience and validation.since_lowest else ""
        )
        own = {f"val_{name}": value for name, value in validation.metrics.items()}
        said = "".join(f"  {name} {value:.4f}" for name, value in validation.metrics.items())
        line = f"{self._progress(step)}  val loss {loss:.4f}{said}{worse}"
        self._record({"step": step, "val_loss": loss, **own}, line)

    def show_sample(self, step: int, model: nn.Module, tokenizer: Tokenizer) -> None:
        """What the (unwrapped) model writes. Rank 0 alone."""
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

    def _record(self, row: dict[str, Any], line: str = "") -> None:
        if self._world.is_first:
            self._metrics.append(row)
            self._trackers.log(row)
            if line:
                self._console.say(line)
