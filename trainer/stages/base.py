"""What changes between pretraining and RL: where batches come from, and what is minimised.

Three conditions keep one loop honest for every stage:

1. Sums, not means. `num_units` is known before the forward, and the engine divides once, by the count over all
   ranks and micro-batches. A mean of means is another loss wherever batches are ragged.
2. No prefetch across an optimizer step for a stage that samples from its policy: it says so by
   `samples_from_policy`, and the engine then takes the micro-batches of a step when that step begins. From any other
   stage it takes them while the step before is still at work; such a stage draws from no global generator.
3. One forward per loss, through the policy that was passed in. It may be wrapped; a forward past the wrapper, or a
   second one, would leave gradients that are never reduced over the ranks.

Stages know nothing of each other, and the engine knows none of them by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from trainer.models.language_model import LanguageModel
from trainer.tokenizer import Tokenizer


class Batch(Protocol):
    """What one forward takes, on one rank."""

    @property
    def num_units(self) -> int:
        """What the loss is a sum over: predicted tokens, or pairs. Known before the forward."""

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model: what throughput counts."""

    # A batch may also have `sample_ids`, numbers of the samples it was made of: they are written down where its loss
    # turns out not to be finite.


@dataclass(frozen=True)
class LossOutput:
    """What a stage made of one batch."""

    loss_sum: Tensor
    """Scalar with gradient, summed over the batch's units; fp32."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Further detached scalars, sums over the units too; logged divided by their number. The same names for every
    batch on every rank: they are added up over the ranks."""


B = TypeVar("B", bound=Batch)


class Stage(Protocol[B]):
    """One way to train. What it yields on a rank is a pure function of its state, its configuration and the policy."""

    @property
    def name(self) -> str:
        """As on the command line; a checkpoint of another stage is not resumed from."""

    @property
    def samples_from_policy(self) -> bool:
        """Whether `batches` looks at the policy, so that they may not be taken before it is up to date."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What the ids mean; it travels in every checkpoint."""

    def batches(self, policy: nn.Module) -> Iterator[B]:
        """This rank's micro-batches without end; `grad_accum_steps` of them make an optimizer step."""

    def validation_batches(self) -> Iterator[B]:
        """This rank's part of the validation, the same every time, and as many on every rank."""

    def loss(self, policy: nn.Module, batch: B) -> LossOutput:
        """What is minimised. Called under no_grad for validation."""

    def state_dict(self) -> dict[str, Any]:
        """Where the data stream stands after the micro-batches taken so far; JSON, and the same on every rank."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises CheckpointError where the data is not the one that state belongs to."""


@runtime_checkable
class Extending(Protocol):
    """What a stage may also be: one that needs more of a policy than a language model has."""

    def extend(self, policy: LanguageModel) -> None:
        """Put it beside the network, such as a head. Called on every rank, on the CPU, once the first weights are in
        place and before the policy is wrapped; a checkpoint's are loaded afterwards."""


@runtime_checkable
class Reporting(Protocol):
    """What a stage may also be: one with numbers of its own for the rows of metrics.jsonl, beside those of the loss."""

    def row_metrics(self, state: Mapping[str, Any]) -> Mapping[str, float]:
        """What there is to say where the stream stands at `state` (of `state_dict`), such as the shares of the data
        so far. A pure function of it, the same on every rank."""
