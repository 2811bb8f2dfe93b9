"""What every network here is: ids in, the summed loss or logits out, one wrapped forward for both.

A network adds how ids become vectors, what a block is, and how its weights begin. With labels the forward never makes
a (B, T, V) tensor. It refuses to know about optimizers, devices, files and sampling.
"""

# B = sequences, T = tokens, D = d_model, S = tokens seen so far, V = vocabulary

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.model import ModelConfig
from trainer.models.attention import document_mask, document_positions
from trainer.models.cache import KVCache
from trainer.models.loss import IGNORE_INDEX, linear_cross_entropy
from trainer.models.packed import Product
from trainer.models.products import linear
from trainer.models.token_logps import linear_token_logps


class GPTOutput(NamedTuple):
    """What was asked for. A tuple, because DDP, FSDP and torch.compile look for tensors in tuples."""

    logits: Tensor | None = None
    """(B, T, V), in the dtype the model computes in; None where labels were given."""
    loss_sum: Tensor | None = None
    """fp32 scalar, summed over the labels that are not IGNORE_INDEX; None where no labels were given."""
    logps: Tensor | None = None
    """(B, T) in fp32: log-probability of each label, 0 where it is IGNORE_INDEX; None unless it was asked for."""
    values: Tensor | None = None
    """(B, T) in fp32, beside `logps`: what the value head makes of each token; None where there is no such head."""


class Context(NamedTuple):
    """What the attention of every block is told beside its input."""

    mask_B1TS: Tensor | None = None
    """Who may see whom; None: causal."""
    rope: tuple[Tensor, Tensor] | None = None
    """Cosine and sine of rotary positions, where the network has them."""
    cache: KVCache | None = None
    """The tokens before these."""


def dropped(x: Tensor, share: float, training: bool) -> Tensor:
    """Dropout, at no cost where there is none."""
    return F.dropout(x, share) if training and share else x


class Linear(nn.Linear):
    """A linear layer that leaves its weights undrawn: the network draws them all, once, in a fixed order."""

    packed: Product | None = None
    """The same product, faster without gradients; `decoding` sets it for a time."""

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is not None and not torch.is_grad_enabled():
            return self.packed(x)
        return linear(x, self.weight, self.bias)

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """A table that leaves its rows undrawn, for the same reason."""

    def reset_parameters(self) -> None:
        pass


class LanguageModel(nn.Module):
    """The part that all networks share. Initial weights are drawn from torch's global generator: seed it first."""

    blocks: nn.ModuleList
    """Each is called with (x_BTD, Context) and returns the residual stream after it."""
    keeps_documents_apart = True
    """Whether `documents_BT` can be given."""
    packed: Product | None = None
    """The product with a head that is tied, as of a `Linear`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.d_model)
        self.head = None if config.tied_head else Linear(config.d_model, config.vocab_size, bias=False)
        self.value_head: nn.Module | None = None  # a stage that needs one adds it

    @property
    def head_weight(self) -> Tensor:
        """(V, D): what turns the last hidden state into logits."""
        return self.token_embedding.weight if self.head is None else self.head.weight

    def forward(
        self,
        ids_BT: Tensor,
        labels_BT: Tensor | None = None,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
        per_token: bool = False,
        temperature: float = 1.0,
        num_labels: int | None = None,
    ) -> GPTOutput:
        """The summed loss where labels are given, else the logits (of the last token alone with `last_only`).

        With `per_token` the log-probability of each label comes instead of their sum, of logits over `temperature`.

        Labels are already shifted: `labels_BT[b, t]` is what should follow `ids_BT[b, t]`, or IGNORE_INDEX. With
        `documents_BT` a row is several documents, which do not see each other; positions count from the start of each.
        With a cache, `ids_BT` are the tokens after those it holds. `num_labels` says how many labels are not
        IGNORE_INDEX, where that is known: the loss then spends nothing on the others.
        """
        x_BTD = self.hidden(ids_BT, positions_BT=positions_BT, documents_BT=documents_BT, cache=cache)
        if labels_BT is not None and per_token:
            hidden_MD = x_BTD.flatten(0, 1) if temperature == 1 else x_BTD.flatten(0, 1) / temperature
            logps_M = linear_token_logps(hidden_MD, self.head_weight, labels_BT.flatten())
            values_BT = None if self.value_head is None else self.value_head(x_BTD).squeeze(-1).float()
            return GPTOutput(logps=logps_M.view_as(labels_BT), values=values_BT)
        if labels_BT is not None:
            counted = _counted(x_BTD.flatten(0, 1), labels_BT.flatten(), num_labels)
            loss_sum = linear_cross_entropy(counted[0], self.head_weight, counted[1])
            return GPTOutput(loss_sum=loss_sum)
        if last_only:
            x_BTD = x_BTD[:, -1:]
        return GPTOutput(logits=self._logits(x_BTD))

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """The residual stream after the last norm, (B, T, D): what the head is applied to."""
        start = cache.length if cache is not None else 0
        end = start + ids_BT.shape[1]
        fits = end <= self.config.max_seq_len or (documents_BT is not None and positions_BT is not None)
        assert fits, f"{end} tokens, the model has {self.config.max_seq_len} positions"
        mask_B1TS = None
        if documents_BT is not None:
            assert cache is None, "a cache holds one document per row"
            mask_B1TS = document_mask(documents_BT)
            positions_BT = document_positions(documents_BT) if positions_BT is None else positions_BT
        if positions_BT is None:
            positions_BT = torch.arange(start, end, device=ids_BT.device)
        x_BTD = self.embedded(ids_BT, positions_BT)
        context = Context(mask_B1TS, self.rope(positions_BT), cache)
        for block in self.blocks:
            x_BTD = block(x_BTD, context)
        return self.normed(x_BTD)

    def _logits(self, x_BTD: Tensor) -> Tensor:
        if self.packed is not None and not torch.is_grad_enabled():
            return self.packed(x_BTD)
        logits_BTV: Tensor = F.linear(x_BTD, self.head_weight) if self.head is None else self.head(x_BTD)
        return logits_BTV

    def embedded(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """The residual stream before the first block. Positions are (T) or (B, T)."""
        raise NotImplementedError

    def rope(self, positions_BT: Tensor) -> tuple[Tensor, Tensor] | None:
        """Rotary positions for the attention of every block, where the network has them."""
        return None

    def normed(self, x_BTD: Tensor) -> Tensor:
        """The last norm."""
        raise NotImplementedError


def _counted(hidden_MD: Tensor, labels_M: Tensor, num_labels: int | None) -> tuple[Tensor, Tensor]:
    """The tokens whose labels count, in their order; found by sorting, so that nobody waits for a GPU to count them."""
    if num_labels is None or not 0 < num_labels < len(labels_M):
        return hidden_MD, labels_M
    places_K = (labels_M == IGNORE_INDEX).byte().argsort(stable=True)[:num_labels]
    return hidden_MD[places_K], labels_M[places_K]
