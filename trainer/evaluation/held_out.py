"""Text to measure a model on: files of any kind that training reads, or the validation part of prepared shards.

Shards are measured row by row as in training, with the rows of the checkpoint's own configuration, so the loss is the
`val_loss` of a training that saw the whole validation part. Files are measured document by document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from trainer.config import DataConfig
from trainer.data import ShardSet, TokenRows, open_shards
from trainer.data.opening import open_source
from trainer.data.rows import isolation
from trainer.data.shards import is_prepared
from trainer.data.sources import corpus_path
from trainer.errors import DataError
from trainer.evaluation.models import MeasuredModel, OwnModel
from trainer.evaluation.texts import TextLoss, Window, text_loss, windows_loss
from trainer.quoting import shown

Said = Callable[[int], None]


def held_out_loss(
    model: MeasuredModel, data: str, *, text_column: str = "text", said: Said = lambda tokens: None
) -> TextLoss:
    """The loss on `data`: shards by their validation part, anything else whole. Raises DataError."""
    path = corpus_path(data)
    if is_prepared(path):
        return _shards_loss(model, open_shards(path), said)
    source = open_source(DataConfig(path=data, text_column=text_column))
    texts = ("".join(document.texts) for document in source.documents())
    return text_loss(model, texts, said=said)


def _shards_loss(model: MeasuredModel, shards: ShardSet, said: Said) -> TextLoss:
    if not isinstance(model, OwnModel) or model.tokenizer.identity != shards.tokenizer_identity:
        raise DataError(
            f"{shown(shards.root)} holds the tokens of another tokenizer than the model's",
            why="ids of one tokenizer mean nothing to a model of another",
            hint="measure it on the text itself: `--data FILE_OR_FOLDER`",
        )
    trained = model.trained_with
    rows = TokenRows(shards, "val", trained.seq_len, aligned=trained.data.rows == "aligned")
    split = _documents if trained.data.rows == "isolated" else _whole

    def windows() -> Iterator[Window]:
        for index in range(rows.num_rows):
            yield from split(rows.rows(index)[0], shards.eot_id)

    nats, num_tokens = windows_loss(model, windows(), said=said)
    predicted = np.concatenate([rows.rows(index)[0, 1:] for index in range(rows.num_rows)])
    return TextLoss(nats, num_tokens, _num_bytes(predicted, shards, model.tokenizer.decode))


def _whole(row: NDArray[np.int64], eot_id: int) -> Iterator[Window]:
    yield row[:-1].tolist(), row[1:].tolist()


def _documents(row: NDArray[np.int64], eot_id: int) -> Iterator[Window]:
    """An isolated row is its documents, each alone, from position 0."""
    _, documents_1T = isolation(row[None, :-1], eot_id)
    cuts = np.flatnonzero(np.diff(documents_1T[0])) + 1
    for inputs, labels in zip(np.split(row[:-1], cuts), np.split(row[1:], cuts), strict=True):
        yield inputs.tolist(), labels.tolist()


def _num_bytes(ids: NDArray[np.int64], shards: ShardSet, decode: Callable[..., str]) -> int:
    """UTF-8 bytes of the documents that the ids spell; the end of a document is none of them."""
    ends = np.flatnonzero(ids == shards.eot_id)
    return sum(len(decode(part[part != shards.eot_id].tolist()).encode()) for part in np.split(ids, ends))
