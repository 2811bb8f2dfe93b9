"""Documents to ids: cut into pieces, tokenized in batches on all cores, each document closed by end-of-text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from trainer.data.documents import START, Document, Place, Source
from trainer.tokenizer import Tokenizer, pieces
from trainer.tokenizer.base import Ids

BATCH_CHARACTERS = 1 << 22
"""Text that is tokenized at once, on all cores."""


@dataclass(frozen=True)
class Mark:
    """How much of a source is done, to the piece of a document."""

    place: Place = START
    pieces: int = 0
    """Of the document that begins there."""
    samples: int = 0
    """Documents that were closed, or left out because they have no text."""
    empty: int = 0
    """Those that were left out."""


NOTHING = Mark()


@dataclass(frozen=True)
class Piece:
    """A part of a document, short enough to be tokenized at once."""

    text: str
    ends_document: bool
    after: Mark
    bytes_read: int


class PieceReader:
    """The pieces of a source from a mark on, of at most `max_samples` documents."""

    def __init__(self, source: Source, mark: Mark = NOTHING, max_samples: int | None = None) -> None:
        self._source, self.mark, self._max_samples = source, mark, max_samples

    def __iter__(self) -> Iterator[Piece]:
        """Each piece; `mark` stands behind the last one, or behind everything when there is no more."""
        for document in self._source.documents(self.mark.place):
            if self._max_samples is not None and self.mark.samples >= self._max_samples:
                return
            yield from self._of(document)

    def _of(self, document: Document) -> Iterator[Piece]:
        done, before = self.mark.pieces, self.mark
        waiting, number, read = "", 0, document.begins_at
        for text in pieces(document.texts):
            if waiting:
                read = min(read + len(waiting.encode(errors="replace")), document.ends_at)
                if number > done:
                    self.mark = Mark(document.begins, number, before.samples, before.empty)
                    yield Piece(waiting, False, self.mark, read)
            waiting, number = text, number + 1
        if waiting.strip() or number > 1:
            self.mark = Mark(document.ends, 0, before.samples + 1, before.empty)
            yield Piece(waiting, True, self.mark, document.ends_at)
        else:
            self.mark = Mark(document.ends, 0, before.samples + 1, before.empty + 1)


def batches(stream: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The pieces in groups worth handing to all cores."""
    batch: list[Piece] = []
    characters = 0
    for piece in stream:
        batch.append(piece)
        characters += len(piece.text) + 1
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def encoded(batch: list[Piece], tokenizer: Tokenizer) -> Ids:
    """The ids of a batch, one after the other, with end-of-text where a document ends."""
    end, nothing = np.array([tokenizer.eot_id], dtype=np.uint32), np.array([], dtype=np.uint32)
    ids = tokenizer.encode_batch([piece.text for piece in batch])
    parts = ((part, end if piece.ends_document else nothing) for part, piece in zip(ids, batch, strict=True))
    return np.concatenate([array for pair in parts for array in pair])


def cut_at(ids: Ids, room: int, eot_id: int, *, inside: bool) -> Ids:
    """The first ids, at most `room`, their last document closed; `inside` says that one is open before them."""
    kept: Ids = ids[:room].copy()
    begins = len(kept) == 1 if not inside and len(kept) < 2 else len(kept) > 1 and kept[-2] == eot_id
    if len(kept) and begins and kept[-1] != eot_id:  # a document of which nothing but its end would be left
        kept = kept[:-1]
    elif len(kept):
        kept[-1] = eot_id
    return kept
