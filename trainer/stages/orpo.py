"""Odds-ratio preference optimisation: learn the chosen answer, and prefer it, without a reference.

A unit of the loss is a pair: the mean negative log-probability of the chosen answer's tokens, and β times the
odds-ratio term. A long answer weighs as much as a short one.
"""

from __future__ import annotations

import torch
from torch import nn

from trainer.config import RunConfig
from trainer.console import Console
from trainer.loop.distributed import World
from trainer.stages import preference_losses as losses
from trainer.stages.base import LossOutput
from trainer.stages.pair_stage import PairStream, pair_data, tokenizer_of
from trainer.stages.preference_batch import PairBatch, answer_logps


class OrpoStage(PairStream):
    """ORPO over pairs."""

    name = "orpo"

    def loss(self, policy: nn.Module, batch: PairBatch) -> LossOutput:
        found = answer_logps(policy, batch)
        chosen_P, rejected_P = found.chosen_mean_P, found.rejected_mean_P
        loss_P = losses.orpo(chosen_P, rejected_P, self.config.orpo.beta)
        with torch.no_grad():
            metrics = {
                "log_odds_ratio": losses.log_odds_ratio(chosen_P, rejected_P).sum(),
                "reward_accuracy": (chosen_P > rejected_P).float().sum(),
                "nll_chosen": -chosen_P.sum(),
            }
        return LossOutput(loss_P.sum(), metrics)


def open_orpo(config: RunConfig, world: World, console: Console) -> OrpoStage:
    """The stage with its pairs read; every rank calls this. Raises TrainerError."""
    tokenizer = world.on_all(lambda: tokenizer_of(config))
    data = world.on_all(lambda: pair_data(config, tokenizer))
    opened = OrpoStage(config, data, tokenizer, rank=world.rank, num_processes=world.num_processes, device=world.device)
    console.say(opened.note())
    return opened
