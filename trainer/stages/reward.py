"""A reward model from pairs: a scalar head on a policy, so that the better answer gets the higher score.

The loss of a pair is -log σ(r(chosen) - r(rejected)) (Bradley and Terry 1952; Ouyang et al. 2022, equation 1). A score
is read at the last token before the one that ends a conversation, where all of it has been seen. The head is the value
head of PPO: such a checkpoint serves as reward model (trainer.models.reward_model) and, without its head, as a policy.
A unit of the loss is a pair.
"""

# P = pairs, B = 2 P rows, T = tokens

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import RunConfig
from trainer.console import Console
from trainer.loop.distributed import World
from trainer.models.language_model import LanguageModel
from trainer.models.loss import IGNORE_INDEX
from trainer.models.reward_model import STAGE, scores
from trainer.models.value_head import add_value_head
from trainer.stages.base import LossOutput
from trainer.stages.pair_stage import PairStream, pair_data, tokenizer_of
from trainer.stages.preference_batch import PairBatch


class RewardStage(PairStream):
    """Bradley-Terry over pairs."""

    name = STAGE

    def extend(self, policy: LanguageModel) -> None:
        """Give it a scalar head, which begins at 0: every pair begins undecided, at a loss of ln 2."""
        add_value_head(policy)

    def loss(self, policy: nn.Module, batch: PairBatch) -> LossOutput:
        chosen_P, rejected_P = scores(policy, batch.ids_BT, last_places(batch.labels_BT)).chunk(2)
        margin_P = chosen_P - rejected_P
        with torch.no_grad():
            metrics = {
                "reward_margin": margin_P.sum(),
                "reward_accuracy": (margin_P > 0).float().sum() + 0.5 * (margin_P == 0).float().sum(),
                "reward_chosen": chosen_P.sum(),
                "reward_rejected": rejected_P.sum(),
            }
        return LossOutput(-F.logsigmoid(margin_P).sum(), metrics)


def last_places(labels_BT: Tensor) -> Tensor:
    """Where the last label of each row is to be predicted, (B,)."""
    if not labels_BT.numel():  # a rank without pairs in this round
        return labels_BT.new_zeros(labels_BT.shape[0])
    places_T = torch.arange(labels_BT.shape[1], device=labels_BT.device)
    return torch.where(labels_BT != IGNORE_INDEX, places_T, 0).amax(1)


def open_reward(config: RunConfig, world: World, console: Console) -> RewardStage:
    """The stage with its pairs read; every rank calls this. Raises TrainerError."""
    tokenizer = world.on_all(lambda: tokenizer_of(config))
    data = world.on_all(lambda: pair_data(config, tokenizer))
    opened = RewardStage(
        config, data, tokenizer, rank=world.rank, num_processes=world.num_processes, device=world.device
    )
    console.say(opened.note())
    return opened
