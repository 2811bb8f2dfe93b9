"""Turn a corpus into shards, once.

The same files and configuration are recognised by a fingerprint and cost
nothing the second time; a changed corpus is prepared anew. Memory stays small
whatever the size of the corpus, except for the word counts of a BPE's training.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trainer.config import DataConfig, TokenizerConfig
from trainer.data.readers import Document, documents
from trainer.data.shard_file import Header
from trainer.data.shards import FORMAT, Index, ShardSet, is_prepared, open_shards, read_index
from trainer.data.sources import Corpus, corpus_path, find_corpus
from trainer.data.writing import ShardWriter, building, forget_leftovers, leftovers, locked, publish_index
from trainer.errors import DataError
from trainer.quoting import shown
from trainer.tokenizer import Tokenizer, open_tokenizer, pieces, train_bpe
from trainer.tokenizer.base import Ids

SHARD_TOKENS = 100_000_000
BATCH_CHARACTERS = 1 << 22
"""Text that is tokenized at once, on all cores."""
BPE_TRAINING_CHARACTERS = 1 << 30
"""A BPE learns from about as much text at most: of a larger corpus, from every n-th piece."""


@dataclass(frozen=True)
class Progress:
    """How far `prepare` is."""

    phase: Literal["waiting", "tokenizer", "tokens"]
    """`waiting` for another process, training the `tokenizer`, or writing `tokens`."""
    documents: int
    tokens: int
    bytes_done: int
    bytes_total: int
    tokens_per_second: float


Report = Callable[[Progress], None]


def silently(progress: Progress) -> None:
    """A report for those who do not want any."""


@dataclass(frozen=True)
class _Piece:
    """A part of a document, short enough to be tokenized at once."""

    text: str
    ends_document: bool
    bytes_read: int


def prepare(config: DataConfig, out: Path, report: Report = silently, *, shard_tokens: int = SHARD_TOKENS) -> ShardSet:
    """The shards of the corpus in `config`, made in `out` if they are not there already.

    A `data.path` that is a prepared folder itself is opened where it is. Several processes may call this at once:
    one works, the others wait for it. Raises DataError; then `out` is what it was before.
    """
    path = corpus_path(config.path)
    if is_prepared(path):
        return _opened(path, config.tokenizer)
    corpus = find_corpus(path)
    fingerprint = _fingerprint(corpus, config, shard_tokens)
    shards = _finished(out, fingerprint)
    if shards is None or leftovers(out, shards.index):
        with locked(out, lambda: report(Progress("waiting", 0, 0, 0, corpus.total_bytes, 0.0))):
            shards = _finished(out, fingerprint)
            if shards is None:
                publish_index(out, _built(corpus, config, out, fingerprint, report, shard_tokens))
                shards = open_shards(out)
            forget_leftovers(out, shards.index)
    return shards


def _opened(folder: Path, config: TokenizerConfig) -> ShardSet:
    shards = open_shards(folder)
    open_tokenizer(config, shards.tokenizer_folder)
    return shards


def _finished(out: Path, fingerprint: str) -> ShardSet | None:
    """The shards that are there already; None where there are none, older ones, or damaged ones."""
    try:
        if read_index(out).fingerprint != fingerprint:
            return None
        shards = open_shards(out)
        shards.load_tokenizer()
        return shards
    except DataError:  # whatever is wrong with them: the corpus is here, so they can be made again
        return None


def _fingerprint(corpus: Corpus, config: DataConfig, shard_tokens: int) -> str:
    settings = config.model_dump(mode="json", exclude={"path"})
    text = json.dumps([FORMAT, settings, shard_tokens, corpus.stamp()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _built(corpus: Corpus, config: DataConfig, out: Path, fingerprint: str, report: Report, shard_tokens: int) -> Index:
    name = f"tokens-{fingerprint[:12]}"
    with building(out, name) as folder:
        tokenizer = _tokenizer(corpus, config, report)
        tokenizer.save(folder / "tokenizer")
        header = Header(tokenizer.vocab_size, tokenizer.eot_id, tokenizer.identity)
        writer = ShardWriter(folder, header, shard_tokens)
        _write_tokens(corpus, config, tokenizer, writer, report)
        if find_corpus(corpus.path).stamp() != corpus.stamp():
            raise DataError(f"{shown(corpus.path)} changed while it was read", hint="start again when it is complete")
    val_tokens = min(max(round(writer.tokens * config.val_fraction), 1), writer.tokens - 1)
    return Index(
        fingerprint=fingerprint,
        folder=name,
        tokenizer_kind=tokenizer.kind,
        tokenizer_identity=tokenizer.identity,
        vocab_size=tokenizer.vocab_size,
        eot_id=tokenizer.eot_id,
        documents=writer.documents,
        tokens=writer.tokens,
        train_tokens=writer.tokens - val_tokens,
        tokens_sha256=writer.tokens_sha256,
        shards=tuple(header.tokens for header in writer.headers),
    )


def _tokenizer(corpus: Corpus, config: DataConfig, report: Report) -> Tokenizer:
    if config.tokenizer.kind != "bpe":
        return open_tokenizer(config.tokenizer)
    every = corpus.total_bytes // BPE_TRAINING_CHARACTERS + 1

    def texts() -> Iterator[str]:
        for number, piece in enumerate(_pieces(documents(corpus, config.text_column))):
            if number % 64 == 0:
                report(Progress("tokenizer", 0, 0, piece.bytes_read, corpus.total_bytes, 0.0))
            if number % every == 0:
                yield piece.text

    return train_bpe(texts(), config.tokenizer.vocab_size)


def _write_tokens(
    corpus: Corpus, config: DataConfig, tokenizer: Tokenizer, writer: ShardWriter, report: Report
) -> None:
    started = time.perf_counter()

    def say(bytes_done: int) -> None:
        rate = writer.tokens / max(time.perf_counter() - started, 1e-9)
        report(Progress("tokens", writer.documents, writer.tokens, bytes_done, corpus.total_bytes, rate))

    for batch in _batches(_pieces(documents(corpus, config.text_column))):
        writer.append(_stream(batch, tokenizer))
        say(batch[-1].bytes_read)
    say(corpus.total_bytes)
    if not writer.tokens:
        raise DataError(
            f"the corpus {shown(corpus.path)} is empty",
            why=f"{len(corpus.files)} file(s), {corpus.total_bytes} bytes, and no text in them",
            hint="give another with `data.path=FILE_OR_FOLDER`, or use the plays that ship here: `data.path=sample`",
        )


def _stream(batch: list[_Piece], tokenizer: Tokenizer) -> Ids:
    """The ids of a batch, one after the other, with end-of-text where a document ends."""
    end, nothing = np.array([tokenizer.eot_id], dtype=np.uint32), np.array([], dtype=np.uint32)
    ids = tokenizer.encode_batch([piece.text for piece in batch])
    parts = ((part, end if piece.ends_document else nothing) for part, piece in zip(ids, batch, strict=True))
    return np.concatenate([array for pair in parts for array in pair])


def _pieces(documents: Iterable[Document]) -> Iterator[_Piece]:
    """The documents cut into pieces that can be tokenized on their own. Documents without any text are left out."""
    for document in documents:
        last, read = "", document.begins_at
        for text in pieces(document.texts):
            if last:
                read = min(read + len(last.encode(errors="replace")), document.ends_at)
                yield _Piece(last, False, read)
            last = text
        if last:
            yield _Piece(last, True, document.ends_at)


def _batches(stream: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    characters = 0
    for piece in stream:
        batch.append(piece)
        characters += len(piece.text) + 1
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
