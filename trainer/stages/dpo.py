"""Direct preference optimisation: prefer the chosen answers more than the reference does.

The reference is where the policy began; its log-probabilities are computed once. A unit of the loss is a pair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.chats.pairs import PairData
from trainer.config import RunConfig
from trainer.console import Console
from trainer.loop.distributed import World
from trainer.stages import preference_losses as losses
from trainer.stages.base import LossOutput
from trainer.stages.pair_stage import PairStream, pad_id_of, pair_data, tokenizer_of
from trainer.stages.preference_batch import AnswerLogps, PairBatch, answer_logps
from trainer.stages.reference import Reference, reference_of
from trainer.tokenizer import Tokenizer


class DpoStage(PairStream):
    """DPO, conservative DPO, IPO or hinge over pairs."""

    name = "dpo"

    def __init__(
        self,
        config: RunConfig,
        data: PairData,
        tokenizer: Tokenizer,
        reference: Reference,
        *,
        rank: int,
        num_processes: int,
        device: torch.device,
    ) -> None:
        super().__init__(config, data, tokenizer, rank=rank, num_processes=num_processes, device=device)
        self._reference = reference

    def loss(self, policy: nn.Module, batch: PairBatch) -> LossOutput:
        found = answer_logps(policy, batch)
        settings = self.config.dpo
        reference_P2 = self._reference_of(batch).to(found.chosen_P.device)
        margin_P = losses.log_ratio_margin(found.chosen_P, found.rejected_P, *reference_P2.unbind(-1))
        by_name: dict[str, Callable[[], Tensor]] = {
            "sigmoid": lambda: losses.dpo_sigmoid(margin_P, settings.beta, settings.label_smoothing),
            "hinge": lambda: losses.dpo_hinge(margin_P, settings.beta),
            "ipo_sum": lambda: losses.ipo(margin_P, settings.beta),
            "ipo_mean": lambda: losses.ipo(_mean_margin(found, reference_P2), settings.beta),
        }
        loss_P = by_name[settings.loss]()
        return LossOutput(loss_P.sum(), self._metrics(found, margin_P, reference_P2))

    def _metrics(self, found: AnswerLogps, margin_P: Tensor, reference_P2: Tensor) -> dict[str, Tensor]:
        """Rewards are β times how much likelier an answer is than under the reference."""
        beta, parts_P = self.config.dpo.beta, (found.chosen_P, found.rejected_P, *reference_P2.unbind(-1))
        with torch.no_grad():
            return {
                "reward_margin": beta * margin_P.sum(),
                "reward_accuracy": losses.is_preferred(margin_P, *parts_P).sum(),
                "reward_chosen": beta * (found.chosen_P - reference_P2[:, 0]).sum(),
                "reward_rejected": beta * (found.rejected_P - reference_P2[:, 1]).sum(),
                "logps_chosen": found.chosen_P.sum(),
                "logps_rejected": found.rejected_P.sum(),
            }

    def _reference_of(self, batch: PairBatch) -> Tensor:
        """(P, 2). Training batches have sample numbers, validation batches have none."""
        split = self._reference.train if batch.sample_ids else self._reference.val
        return torch.from_numpy(split[list(batch.pairs)])


def _mean_margin(found: AnswerLogps, reference_P2: Tensor) -> Tensor:
    chosen_P, rejected_P = reference_P2.unbind(-1)
    return losses.log_ratio_margin(
        found.chosen_mean_P,
        found.rejected_mean_P,
        chosen_P / found.chosen_tokens_P,
        rejected_P / found.rejected_tokens_P,
    )


def open_dpo(config: RunConfig, world: World, console: Console) -> DpoStage:
    """The stage with its pairs read and the reference computed; every rank calls this. Raises TrainerError."""
    tokenizer = world.on_all(lambda: tokenizer_of(config))
    data = world.on_all(lambda: pair_data(config, tokenizer))
    reference = reference_of(config, data, tokenizer, pad_id_of(tokenizer), world, console)
    ranks: dict[str, Any] = {"rank": world.rank, "num_processes": world.num_processes, "device": world.device}
    opened = DpoStage(config, data, tokenizer, reference, **ranks)
    console.say(opened.note())
    return opened
