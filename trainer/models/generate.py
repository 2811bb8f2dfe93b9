"""Text from a model, one token at a time, the same for the same seed.

Draws from a generator of its own, so training goes on as if nothing had been sampled, and leaves the model in the
mode it was in. Past the model's positions the window slides: the newest half is encoded afresh and sampling goes on,
so a text may be of any length. It refuses to know about tokenizers: ids in, ids out.
"""

# B = sequences (1), T = tokens, V = vocabulary

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from trainer.models.loss import compute_dtype
from trainer.models.model import GPT, KVCache


def generate(
    model: GPT,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_id: int | None = None,
) -> list[int]:
    """At most `max_tokens` ids that follow `prompt_ids`; ends before `stop_id`, which is not returned.

    `temperature` 0 takes the likeliest id. `top_k` (0: off) and `top_p` (1: off) limit the choice, in this order.
    The prompt must not be empty; the end-of-text id stands for "anything". Works under autocast.
    """
    assert prompt_ids, "an empty prompt: pass the end-of-text id"
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    with _evaluating(model):
        window = _Window(model, prompt_ids)
        while len(ids) < max_tokens:
            new = sampled_id(window.logits_V, temperature, top_k, top_p, generator)
            if new == stop_id:
                break
            ids.append(new)
            window.append(new)
    return ids


def sampled_id(logits_V: Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator) -> int:
    """One id drawn from softmax(logits / temperature), cut to the `top_k` likeliest and then to mass `top_p`."""
    if temperature == 0:
        return int(logits_V.argmax())
    # On the CPU and in fp32: the same seed then gives the same text on every device with equal logits.
    scaled_V = logits_V.float().cpu() / temperature
    kept = min(top_k, len(scaled_V)) if top_k else len(scaled_V)
    logits_K, ids_K = scaled_V.sort(descending=True, stable=True)
    probs_K = logits_K[:kept].softmax(-1)
    # An id stays while the likelier ones together are short of top_p; the likeliest always does.
    probs_K = probs_K * (probs_K.cumsum(-1) - probs_K < top_p)
    return int(ids_K[torch.multinomial(probs_K, 1, generator=generator)])


class _Window:
    """The newest tokens of a text, as many as the model has positions for, and what comes next."""

    def __init__(self, model: GPT, ids: Sequence[int]) -> None:
        self.model, self.ids, self.limit = model, list(ids), model.config.max_seq_len
        weight = model.token_embedding.weight
        self.device = weight.device
        self.cache = KVCache(model.config, 1, dtype=compute_dtype(weight), device=weight.device)
        self.logits_V = self._logits(self.ids[-self.limit :])

    def append(self, new: int) -> None:
        """Take one more token in; where no position is left, encode the newest half again from position 0."""
        self.ids.append(new)
        if self.cache.length < self.limit:
            self.logits_V = self._logits([new])
        else:
            self.cache.clear()
            self.logits_V = self._logits(self.ids[-max(1, self.limit // 2) :])

    def _logits(self, ids: list[int]) -> Tensor:
        ids_BT = torch.tensor([ids], device=self.device)
        logits_BTV = self.model(ids_BT, cache=self.cache, last_only=True).logits
        last_V: Tensor = logits_BTV[0, -1]
        return last_V


@contextmanager
def _evaluating(model: GPT) -> Iterator[None]:
    """Without dropout and gradients; afterwards as before."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
