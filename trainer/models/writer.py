"""A model with its tokenizer and a way to draw: prompts in, text out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import nn

from trainer.models.generate import generate_batch, stream
from trainer.models.sampling import Sampling
from trainer.models.text_stream import TextStream, until_stop
from trainer.tokenizer import Tokenizer


class Writer:
    """Writes what follows a prompt: to the end of the document, to a stop string, or `max_tokens` tokens."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        sampling: Sampling,
        *,
        max_tokens: int,
        stops: Sequence[str] = (),
    ) -> None:
        self._model, self.tokenizer, self._sampling = model, tokenizer, sampling
        self._max_tokens, self._stops = max_tokens, tuple(stops)

    def stream(self, prompt: str) -> Iterator[str]:
        """The text piece by piece, as it is certain."""
        return self.stream_after(self._ids(prompt), [self.tokenizer.eot_id])

    def stream_after(
        self, prompt_ids: Sequence[int], stop_ids: Collection[int], stops: Sequence[str] = ()
    ) -> Iterator[str]:
        """The same after ids, which must not be empty. `stop_ids` and `stops` end it, for this time."""
        text = TextStream(self.tokenizer.decode, (*self._stops, *stops))
        ids = stream(self._model, prompt_ids, max_tokens=self._max_tokens, sampling=self._sampling, stop_ids=stop_ids)
        for new_id in ids:
            if piece := text.push(new_id):
                yield piece
            if text.ended:
                ids.close()
                return
        if piece := text.rest():
            yield piece

    def write(self, prompts: Sequence[str]) -> list[str]:
        """The text after each prompt, all side by side."""
        found = generate_batch(
            self._model,
            [self._ids(prompt) for prompt in prompts],
            max_tokens=self._max_tokens,
            sampling=self._sampling,
            stop_ids=[self.tokenizer.eot_id],
        )
        return [until_stop(self.tokenizer.decode(each.ids), self._stops) for each in found]

    def _ids(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt) or [self.tokenizer.eot_id]
