"""The loop that every stage shares: step, log, validate, sample, save; go on from a checkpoint; stop when told.

A resumed run equals one that was never stopped, bit for bit, with the same number of processes on a CPU, and on GPUs as
far as their kernels repeat themselves: everything that is drawn, counted or scheduled is a function of the step or lies
in the checkpoint. All ranks decide together at the edge of a step. The engine contains no stage's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import manifest
from trainer.checkpoints.checkpoint import TrainState, config_sha256, load_tensors, read_state
from trainer.checkpoints.keeping import require_room
from trainer.checkpoints.snapshot import num_bytes
from trainer.config import RunConfig
from trainer.console import Console
from trainer.errors import TrainerError
from trainer.loop.agreement import agreed_checkpoint
from trainer.loop.beginning import policy_to_begin_with
from trainer.loop.distributed import World
from trainer.loop.guards import SkipGuard
from trainer.loop.optim import make_optimizer
from trainer.loop.random_state import RandomState, go_on_drawing, seed_process
from trainer.loop.reporting import Reporter
from trainer.loop.resume import checkpoint_to_resume, require_stage
from trainer.loop.saving import Saver
from trainer.loop.sharing import share_newest
from trainer.loop.signals import StopRequest, stop_request
from trainer.loop.step import Gradients, Stepper
from trainer.loop.supply import Supply
from trainer.loop.validation import Validation
from trainer.loop.wrapping import is_sharded, whole_model, wrapped
from trainer.models.build import build_model
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
    ended_early: str = ""
    """Why it is done before `train.max_steps`, or ""."""


def train(config: RunConfig, stage: Stage[Any], world: World, console: Console) -> Outcome:
    """Train until `train.max_steps`, from the newest whole checkpoint on where there is one. Every rank calls this.

    `config.out_dir` must exist and be this run's alone. Raises CheckpointError and EngineError.
    """
    with stop_request() as stop:
        training = _Training(config, stage, world, console, stop)
        try:
            training.begin()
            with stop.training():
                training.run()
        except TrainerError:
            training.saver.finish_quietly()
            raise
        finally:
            training.reporter.close()
        return training.outcome()


class _Training:
    """The state of one run on one rank."""

    def __init__(self, config: RunConfig, stage: Stage[Any], world: World, console: Console, stop: StopRequest) -> None:
        self._config, self._stage, self._world, self._console, self._stop = config, stage, world, console, stop
        self.saver = Saver(config, world, console)
        self.reporter = Reporter(config, world, console)
        self._guard = SkipGuard(config, world, console)
        torch.manual_seed(config.seed)
        if config.resume != "never":
            share_newest(self.saver.folder, world, console)
        resumes = world.any(bool(manifest.checkpoints(self.saver.folder)))
        self._model = policy_to_begin_with(config, stage, world, resumes=resumes).to(world.device)
        self._policy = wrapped(self._model, world, config.train)
        self._optimizer = make_optimizer(self._model, config.optim)  # after wrapping, which may replace parameters
        self._stepper = Stepper(self._policy, self._optimizer, stage, world, config.optim.grad_clip)
        self._validation = Validation(stage, self._policy, world, config.eval.patience)
        self._tokens = 0
        self.step = 0
        self.stopped_by = ""

    # --- beginning ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start afresh or from the newest whole checkpoint, as the configuration wants it."""
        chosen = agreed_checkpoint(self._choose, self._world)
        if self._world.num_processes > 2 and not is_sharded(self._policy):
            self._stepper.rehearse()
        if chosen is not None:
            self._world.on_all(lambda: self._load(chosen))
        self._world.on_first(lambda: self.reporter.open(self.step))
        if chosen is None:
            seed_process(self._config.seed, self._world.rank)
        else:
            states, rank, device = read_state(chosen).random, self._world.rank, self._world.device
            if not go_on_drawing(states, self._world.num_processes, rank, device, self._config.seed, self.step):
                change = f"{len(states)} processes became {self._world.num_processes}"
                self._console.say(f"{change}: same data order, other dropout")
        batch = self._config.train
        accumulation = grad_accum_steps(batch.global_batch_size, batch.micro_batch_size, self._world.num_processes)
        self._supply = Supply(self._stage, self._policy, accumulation)

    def _choose(self) -> Path | None:
        """Which checkpoint to go on from; what belongs to a later step is put out of the way. One rank on each disk."""
        chosen = checkpoint_to_resume(self._config, self.saver.folder, self._console)
        require_room(self.saver.folder, 3 * num_bytes(self._model.state_dict()))
        step = (manifest.step_of(chosen.name) or 0) if chosen else 0
        self.reporter.drop_after(step)
        self._guard.drop_after(step)
        return chosen

    def _load(self, chosen: Path) -> None:
        state = read_state(chosen)
        require_stage(chosen, state, self._stage.name)
        self._stage.load_state_dict(state.stage_state)
        load_tensors(chosen, self._model, self._optimizer)
        if self._stepper.scaler and state.scaler:
            self._stepper.scaler.load_state_dict(state.scaler)
        self.step, self._tokens = state.step, state.tokens
        for part in (self._guard, self._validation, self.reporter):
            part.resume_from(state)
        self.saver.resume_from(chosen, state)
        self._console.say(f"resumed from `{chosen.name}`: step {self.step}/{self._config.train.max_steps}")

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Steps until the last one, until validation falls no more, or until somebody asked to stop."""
        self._policy.train()
        if self.step and self._validation.loss is None and self._due(self._config.eval.every_steps):
            self._validate()  # what a stop had kept from being measured
            self.saver.consider(self.step, self._validation.loss)
        asked = self._world.any(bool(self._stop.reason))
        self.reporter.begin()
        while not self._is_done() and not asked:
            asked = self._edge(self._take_step())
        self.saver.settle()
        if asked and not self._is_done():
            self.stopped_by = next(reason for reason in self._world.gather(self._stop.reason) if reason)

    def _is_done(self) -> bool:
        return self.step >= self._config.train.max_steps or self._validation.exhausted

    def _take_step(self) -> Gradients:
        batches = self._supply.take()
        is_last = self.step + 1 >= self._config.train.max_steps
        gradients = self._stepper.accumulate(
            batches,
            attention=bool(self._stop.reason) or self.saver.failed,
            meanwhile=(lambda: None) if is_last else self._supply.look_ahead,
        )
        self.step += 1
        self._validation.loss = None
        self.reporter.count(gradients)
        if gradients.is_finite:
            self._stepper.apply(lr_of(self.step - 1, self._config))
            self._guard.passed()
            self._tokens += gradients.tokens
        else:
            self._stepper.skip()
            self._skipped(gradients, batches)
        return gradients

    def _skipped(self, gradients: Gradients, batches: Sequence[Any]) -> None:
        self._guard.skip(self.step, gradients, batches)
        self.reporter.show_skipped(self.step, self._guard.skipped)
        if self._guard.exhausted:
            self.saver.settle()
            raise self._guard.error(self.step, gradients, self.saver.newest)

    def _edge(self, gradients: Gradients) -> bool:
        """What is due after a step. Returns whether to stop."""
        config, asked = self._config, gradients.attention_asked
        if asked:
            self.saver.settle()
        if self._due(config.log.every_steps) or self.step == 1:
            self.reporter.show_step(self.step, self._tokens, gradients, self._stage, self._supply.state)
        with self.reporter.paused():
            if self._due(config.eval.every_steps) and not asked:
                asked = self._validate()
            if config.sample.every_steps and self._due(config.sample.every_steps) and not asked:
                self._sample()
            if self._due(config.checkpoint.every_steps) or asked or self._is_done():
                self._save()
        return asked

    def _due(self, every_steps: int) -> bool:
        return self.step % every_steps == 0 or self.step == self._config.train.max_steps

    # --- what is due -------------------------------------------------------------------------------------------------

    def _validate(self) -> bool:
        """Whether a stop was asked for meanwhile."""
        if self._validation.measure(self._stop):
            return True
        self.reporter.show_validation(self.step, self._validation)
        return False

    def _sample(self) -> None:
        model = whole_model(self._model, lambda: build_model(self._config.model), self._world)
        if model is not None:
            self.reporter.show_sample(self.step, model, self._stage.tokenizer)

    def _save(self) -> None:
        """Not while steps are being skipped: the weights may be lost already, and would rotate good ones away."""
        if self._guard.in_a_row and not self._is_done():
            return
        self.saver.consider(self.step, self._validation.loss)
        self.saver.save(self._state, self._model, self._optimizer, self._stage.tokenizer)

    def _state(self, states: list[RandomState]) -> TrainState:
        return TrainState(
            step=self.step,
            tokens=self._tokens,
            stage=self._stage.name,
            stage_state=dict(self._supply.state),
            random=states,
            scaler=self._stepper.scaler.state_dict() if self._stepper.scaler else None,
            val_loss=self._validation.loss,
            best_val_loss=self.saver.best_loss,
            best_step=self.saver.best_step,
            tokenizer=self._stage.tokenizer.identity,
            config_sha256=config_sha256(self._config),
            skipped_steps=self._guard.skipped,
            skipped_in_a_row=self._guard.in_a_row,
            lowest_val_loss=self._validation.lowest,
            evaluations_since_lowest=self._validation.since_lowest,
            run_id=self.reporter.run_id,
        )

    def outcome(self) -> Outcome:
        """How it ended."""
        early = self._validation.verdict if self.step < self._config.train.max_steps else ""
        return Outcome(self.step, self.saver.newest, self._validation.loss, self.stopped_by, early)
