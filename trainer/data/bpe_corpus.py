"""The text a BPE is trained on: a fair part of every source, and no more than memory is good for."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.config import DataConfig
from trainer.data.documents import Source
from trainer.data.encoding import PieceReader
from trainer.data.opening import open_source
from trainer.data.progress import Progress, Report
from trainer.tokenizer import Tokenizer, train_bpe

BPE_TRAINING_CHARACTERS = 1 << 30
"""A BPE learns from about as much text at most: of a larger folder, from every n-th piece of it."""
_CHARACTERS_PER_TOKEN = 5
"""More than English has in GPT-2's vocabulary (4.5 of OpenWebText): where tokens are limited, enough text is read."""


def trained_bpe(config: DataConfig, report: Report) -> Tokenizer:
    """The BPE of the sources of `config`, each read in proportion to its weight. Raises DataError."""

    def texts() -> Iterator[str]:
        for weight, part in config.parts().values():
            yield from _texts(open_source(part), part, weight, report)

    return train_bpe(texts(), config.tokenizer.vocab_size)


def _texts(source: Source, config: DataConfig, weight: float, report: Report) -> Iterator[str]:
    room = min(BPE_TRAINING_CHARACTERS, _CHARACTERS_PER_TOKEN * (config.max_tokens or BPE_TRAINING_CHARACTERS)) * weight
    every, taken = source.total_bytes // BPE_TRAINING_CHARACTERS + 1, 0
    for number, piece in enumerate(PieceReader(source, max_samples=config.max_samples)):
        if number % 64 == 0:
            share = min(1.0, max(taken / room, piece.bytes_read / source.total_bytes if source.total_bytes else 0.0))
            report(Progress("tokenizer", source.name, 0, 0, piece.bytes_read, source.total_bytes, share=share))
        if taken > room:
            return
        if number % every == 0:
            taken += len(piece.text)
            yield piece.text
