"""The loop that every stage shares: step, log, validate, sample, save; go on from a checkpoint; stop when told.

A resumed run equals one that was never stopped, bit for bit, with the same number of processes on a CPU, and on GPUs as
far as their kernels repeat themselves: everything that is drawn, counted or scheduled is a function of the step or lies
in the checkpoint. All ranks decide together at the edge of a step. The engine contains no stage's name.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import manifest
from trainer.checkpoints.checkpoint import TrainState, config_sha256, load_tensors, num_bytes, read_state, require_room
from trainer.config import RunConfig
from trainer.console import Console
from trainer.errors import CheckpointError, EngineError
from trainer.loop.distributed import World
from trainer.loop.optim import make_optimizer
from trainer.loop.random_state import RandomState, restore_random_state, seed_process
from trainer.loop.reporting import Reporter
from trainer.loop.resume import checkpoint_to_resume
from trainer.loop.saving import Saver
from trainer.loop.signals import StopRequest
from trainer.loop.step import Gradients, Stepper
from trainer.models.model import GPT
from trainer.quoting import shown
from trainer.schedule import lr_of
from trainer.sizing import grad_accum_steps
from trainer.stages.base import Stage


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    step: int
    checkpoint: Path | None
    """The newest one."""
    val_loss: float | None
    """Of the final weights, where it was measured."""
    stopped_by: str
    """The signal that ended it early, or ""."""


def train(config: RunConfig, stage: Stage[Any], world: World, console: Console) -> Outcome:
    """Train until `train.max_steps`, from the newest whole checkpoint on where there is one. Every rank calls this.

    `config.out_dir` must exist and be this run's alone. Raises CheckpointError and EngineError.
    """
    training = _Training(config, stage, world, console)
    with StopRequest(deaf_afterwards=world.num_processes > 1) as stop:
        training.begin()
        training.run(stop)
    return training.outcome()


class _Training:
    """The state of one run on one rank."""

    def __init__(self, config: RunConfig, stage: Stage[Any], world: World, console: Console) -> None:
        self._config, self._stage, self._world, self._console = config, stage, world, console
        self._saver = Saver(config, world, console)
        self._reporter = Reporter(config, world, console)
        torch.manual_seed(config.seed)
        self._model = GPT(config.model).to(world.device)
        self._optimizer = make_optimizer(self._model, config.optim)
        self._policy = world.wrap(self._model, compiled=config.train.compile)
        self._stepper = Stepper(self._policy, self._optimizer, stage, world, config.optim.grad_clip)
        self._accumulation = grad_accum_steps(
            config.train.global_batch_size, config.train.micro_batch_size, world.num_processes
        )
        self._tokens = 0
        self.step = 0
        self.val_loss: float | None = None
        self.stopped_by = ""

    # --- beginning ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start afresh or from the newest whole checkpoint, as the configuration wants it."""
        chosen = self._world.on_first(self._choose)
        if self._world.num_processes > 2:
            self._stepper.rehearse()
        if chosen is None:
            seed_process(self._config.seed, self._world.rank)
        else:
            self._world.on_all(lambda: self._load(chosen))

    def _choose(self) -> Path | None:
        """Which checkpoint to go on from; what belongs to a later step is put out of the way. Rank 0 alone."""
        chosen = checkpoint_to_resume(self._config, self._saver.folder, self._console)
        require_room(self._saver.folder, 3 * num_bytes(self._model.state_dict()))
        self._reporter.drop_after((manifest.step_of(chosen.name) or 0) if chosen else 0)
        return chosen

    def _load(self, chosen: Path) -> None:
        state = read_state(chosen)
        if state.stage != self._stage.name:
            raise CheckpointError(
                f"{shown(chosen)} is of a {state.stage} run, this one is {self._stage.name}",
                hint="start a new run: `out_dir=runs/another`",
            )
        self._stage.load_state_dict(state.stage_state)
        load_tensors(chosen, self._model, self._optimizer)
        if self._stepper.scaler and state.scaler:
            self._stepper.scaler.load_state_dict(state.scaler)
        self.step, self._tokens, self.val_loss = state.step, state.tokens, state.val_loss
        self._saver.resume_from(chosen, state)
        self._console.say(f"resumed from `{chosen.name}`: step {self.step}/{self._config.train.max_steps}")
        self._restore_random(state.random)

    def _restore_random(self, states: Sequence[RandomState]) -> None:
        if len(states) == self._world.num_processes:
            restore_random_state(states[self._world.rank], self._world.device)
            return
        seed_process(self._config.seed, self._world.rank, self.step)
        self._console.say(f"{len(states)} processes became {self._world.num_processes}: same data order, other dropout")

    def outcome(self) -> Outcome:
        """How it ended."""
        return Outcome(self.step, self._saver.newest, self.val_loss, self.stopped_by)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest) -> None:
        """Steps until the last one, or until somebody asked to stop."""
        self._policy.train()
        if self.step and self.val_loss is None and self._due(self._config.eval.every_steps):
            self._validate(stop)  # what a stop had kept from being measured
            self._saver.consider(self.step, self.val_loss)
        batches = self._stage.batches(self._policy)
        asked = self._world.any(bool(stop.reason))
        while self.step < self._config.train.max_steps and not asked:
            gradients = self._take_step(list(itertools.islice(batches, self._accumulation)), stop)
            asked = self._edge(gradients, stop)
        if asked and self.step < self._config.train.max_steps:
            self.stopped_by = next(reason for reason in self._world.gather(stop.reason) if reason)

    def _take_step(self, batches: Sequence[Any], stop: StopRequest) -> Gradients:
        gradients = self._stepper.accumulate(batches, stop_asked=bool(stop.reason))
        if not self._stepper.may_apply(gradients):
            raise self._not_finite(gradients)
        self._stepper.apply(lr_of(self.step, self._config))
        self.step += 1
        self.val_loss = None
        self._tokens += gradients.tokens
        self._reporter.count(gradients)
        return gradients

    def _edge(self, gradients: Gradients, stop: StopRequest) -> bool:
        """What is due after a step. Returns whether to stop."""
        config, asked = self._config, gradients.stop_asked
        if self._due(config.log.every_steps) or self.step == 1:
            self._reporter.show_step(self.step, self._tokens, gradients)
        with self._reporter.paused():
            if self._due(config.eval.every_steps) and not asked:
                asked = self._validate(stop)
            if config.sample.every_steps and self._due(config.sample.every_steps) and not asked:
                self._reporter.show_sample(self.step, self._model, self._stage.tokenizer)
            if self._due(config.checkpoint.every_steps) or asked:
                self._save()
        return asked

    def _due(self, every_steps: int) -> bool:
        return self.step % every_steps == 0 or self.step == self._config.train.max_steps

    def _not_finite(self, gradients: Gradients) -> EngineError:
        newest = self._saver.newest
        error = EngineError(
            f"step {self.step + 1} is not finite: loss {gradients.loss}, gradient norm {gradients.grad_norm}",
            why="the weights were not touched; "
            + (f"the last good checkpoint is {shown(newest)}" if newest else "there is no checkpoint yet"),
            hint=f"start again with a lower rate: `optim.lr={self._config.optim.lr / 2:g}`",
        )
        error.on_every_rank = True
        return error

    # --- what is due -------------------------------------------------------------------------------------------------

    def _validate(self, stop: StopRequest) -> bool:
        """Measure the loss on the validation batches. True where a stop was asked for meanwhile: no loss then."""
        total, units = torch.zeros((), dtype=torch.float64, device=self._world.device), 0
        self._policy.eval()
        with torch.no_grad():
            for batch in self._stage.validation_batches():
                if batch.num_units:
                    total += self._stage.loss(self._policy, batch).loss_sum
                    units += batch.num_units
                if self._world.any(bool(stop.reason)):
                    break
        self._policy.train()
        loss, all_units, asked = self._world.totals([total.item(), units, float(bool(stop.reason))])
        if asked:
            return True
        self.val_loss = loss / all_units
        self._reporter.show_validation(self.step, self.val_loss)
        return False

    def _save(self) -> None:
        self._saver.consider(self.step, self.val_loss)
        self._saver.save(self._state, self._model, self._optimizer, self._stage.tokenizer)

    def _state(self, states: list[RandomState]) -> TrainState:
        return TrainState(
            step=self.step,
            tokens=self._tokens,
            stage=self._stage.name,
            stage_state=self._stage.state_dict(),
            random=states,
            scaler=self._stepper.scaler.state_dict() if self._stepper.scaler else None,
            val_loss=self.val_loss,
            best_val_loss=self._saver.best_loss,
            best_step=self._saver.best_step,
            tokenizer=self._stage.tokenizer.identity,
            config_sha256=config_sha256(self._config),
        )
