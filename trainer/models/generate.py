"""Text from a model: one sequence as it comes, or many side by side, the same for the same seed.

All rows of a batch stand at the same position. A row whose prompt is longer takes the next token of its prompt where
the others take what was drawn; so there is no padding, no mask, and a row in a batch gets the logits it would get
alone. Past the model's positions the window slides: the newest half is encoded afresh from position 0 and sampling goes
on, so a text may be of any length.

Draws from numbers of its own, so training goes on as if nothing had been sampled, and leaves the model in the mode it
was in. It refuses to know about tokenizers: ids in, ids out.
"""

# B = sequences, T = tokens, V = vocabulary

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.models.build import NETWORKS
from trainer.models.cache import KVCache
from trainer.models.decoding import decoding
from trainer.models.one_row import OneRow
from trainer.models.products import compute_dtype
from trainer.models.sampling import Sampling, sampled_ids, uniforms

_NO_DRAWS = torch.empty(0, dtype=torch.float64)
"""The likeliest id needs none."""


@dataclass
class Completion:
    """What one prompt was followed by."""

    ids: list[int] = field(default_factory=list)
    """Without the id that ended it."""
    logps: list[float] = field(default_factory=list)
    """Log-probability of each drawn id under the temperature it was drawn with, before top-k and top-p, the id that
    ended it included; empty unless it was asked for."""
    stop_id: int | None = None
    """What ended it; None where `max_tokens` did."""


def generate(
    model: nn.Module,
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

    The prompt must not be empty; the end-of-text id stands for "anything". Works under autocast.
    """
    sampling = Sampling(temperature, top_k, top_p, seed)
    stop_ids = () if stop_id is None else (stop_id,)
    return generate_batch(model, [prompt_ids], max_tokens=max_tokens, sampling=sampling, stop_ids=stop_ids)[0].ids


def stream(
    model: nn.Module,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int] = (),
) -> Generator[int, None, None]:
    """The ids of `generate`, each as soon as it is drawn. The model is in evaluation mode until it is exhausted."""
    without_gradients = _without_gradients(model)
    with decoding(model, rows=1, tokens=max_tokens) as one_row, _evaluating(model):
        with without_gradients():
            rows = _Rows(model, [prompt_ids], max_tokens, sampling, stop_ids, one_row=one_row)
        told = 0
        while rows.living:
            with without_gradients():  # and not where the caller goes on
                rows.step()
            yield from rows.completions[0].ids[told:]
            told = len(rows.completions[0].ids)


def generate_batch(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    sampling: Sampling,
    stop_ids: Collection[int] = (),
    with_logps: bool = False,
) -> list[Completion]:
    """What follows each prompt, in their order. Row `i` is what it would be alone, but for rounding in the logits.

    Prompts must not be empty; of one longer than the model's positions the newest ones count.
    """
    if not prompts or max_tokens < 1:
        return [Completion() for _ in prompts]
    num_rows = len(prompts)
    with decoding(model, rows=num_rows, tokens=max_tokens) as one_row, _evaluating(model), _without_gradients(model)():
        rows = _Rows(model, prompts, max_tokens, sampling, stop_ids, with_logps, one_row)
        while rows.living:
            rows.step()
    return rows.completions


class _Rows:
    """Sequences that grow side by side. `living` has the numbers of those that still do."""

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        sampling: Sampling,
        stop_ids: Collection[int],
        with_logps: bool = False,
        one_row: OneRow | None = None,
    ) -> None:
        assert all(prompts), "an empty prompt: pass the end-of-text id"
        self._model, self._sampling, self._max_tokens, self._one_row = model, sampling, max_tokens, one_row
        self._stop_ids, self._with_logps = frozenset(stop_ids), with_logps
        config = cast(ModelConfig, model.config)  # nn.Module takes every attribute for a tensor or a module
        self._limit = config.max_seq_len
        self._prompts = [list(prompt)[-self._limit :] for prompt in prompts]
        self.completions = [Completion() for _ in prompts]
        self.living = list(range(len(prompts)))
        self._position = min(map(len, self._prompts))
        longest = max(map(len, self._prompts)) + max_tokens
        weight = next(model.parameters())
        self._device = weight.device
        self._cache = _cache_of(model, config, len(prompts), weight, longest)
        self._logits_BV = self._forward([prompt[: self._position] for prompt in self._prompts])

    def step(self) -> None:
        """One more token for every living row."""
        numbers = [len(self.completions[row].ids) for row in self.living]
        new_ids = self._drawn(numbers)
        kept = [i for i, row in enumerate(self.living) if self._took(row, i, new_ids)]
        self._position += 1
        ended = len(kept) < len(self.living)
        self.living = [self.living[i] for i in kept]
        if not self.living:
            return
        if ended:
            self._cache.keep(torch.tensor(kept, device=self._device))
        self._logits_BV = self._next_logits()

    def _drawn(self, numbers: Sequence[int]) -> list[int]:
        """The id each living row would go on with, were its prompt at its end."""
        draws_B = uniforms(self._sampling.seed, self.living, numbers) if self._sampling.temperature else _NO_DRAWS
        ids_B = sampled_ids(self._logits_BV, self._sampling, draws_B)
        if self._with_logps:
            temperature = self._sampling.temperature or 1.0
            logps_BV = (self._logits_BV.float() / temperature).log_softmax(-1)
            self._logps = logps_BV.gather(-1, ids_B[:, None].to(logps_BV.device)).squeeze(-1).tolist()
        drawn: list[int] = ids_B.tolist()
        return drawn

    def _took(self, row: int, place: int, new_ids: list[int]) -> bool:
        """Whether the row goes on after its token: the prompt's own next one, or the drawn one."""
        if self._position < len(self._prompts[row]):
            return True
        completion = self.completions[row]
        if self._with_logps:
            completion.logps.append(self._logps[place])
        if new_ids[place] in self._stop_ids:
            completion.stop_id = new_ids[place]
            return False
        completion.ids.append(new_ids[place])
        return len(completion.ids) < self._max_tokens

    def _next_logits(self) -> Tensor:
        if self._cache.length < self._limit:
            if self._one_row is not None:
                return self._one_row.logits(self._newest(self.living[0]), self._cache)
            return self._forward([[self._newest(row)] for row in self.living])
        self._cache.clear()
        texts = [[*self._prompts[row], *self.completions[row].ids][: self._position] for row in self.living]
        return self._forward([text[-max(1, self._limit // 2) :] for text in texts])

    def _newest(self, row: int) -> int:
        """The token before the position: of the prompt while that lasts."""
        prompt, place = self._prompts[row], self._position - 1
        return prompt[place] if place < len(prompt) else self.completions[row].ids[-1]

    def _forward(self, ids: list[list[int]]) -> Tensor:
        ids_BT = torch.tensor(ids, device=self._device)
        logits_BTV: Tensor = self._model(ids_BT, cache=self._cache, last_only=True).logits
        return logits_BTV[:, -1]


def _cache_of(model: nn.Module, config: ModelConfig, num_rows: int, weight: Tensor, capacity: int) -> KVCache:
    """The network's own kind, where it has one."""
    if (own := getattr(model, "new_cache", None)) is not None:
        cache: KVCache = own()
        return cache
    return KVCache(config, num_rows, dtype=compute_dtype(weight), device=weight.device, capacity=capacity)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; afterwards as before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _without_gradients(model: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """Inference mode, which saves a tenth of a small model's time, where nothing of the model outlives a forward.

    That is so in a network of ours, whole and as it is; other networks, and spread weights, keep what they make.
    """
    is_ours = type(model) in NETWORKS.values()
    is_plain = is_ours and all(type(each) is nn.Parameter for each in model.parameters())
    return torch.inference_mode if is_plain else torch.no_grad
