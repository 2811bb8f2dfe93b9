"""Turn a source into shards, once.

The same text and configuration are recognised by a fingerprint and cost
nothing the second time; a changed corpus is prepared anew. What was killed goes
on where it was, and ends with the same bytes. Memory stays small whatever the
size of the source, except for the word counts of a BPE's training.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from trainer.config import DataConfig, TokenizerConfig
from trainer.config.sources import hub_source
from trainer.data.bpe_corpus import trained_bpe
from trainer.data.documents import Source
from trainer.data.encoding import Mark, PieceReader, batches, cut_at, encoded
from trainer.data.hub import HubText
from trainer.data.hub_errors import HubUnreachable
from trainer.data.journal import Journal, forget_journal, read_journal
from trainer.data.opening import open_source
from trainer.data.progress import Clock, Progress, Report, silently
from trainer.data.shard_file import Header
from trainer.data.shards import FORMAT, Index, ShardSet, is_prepared, open_shards, read_index
from trainer.data.sources import corpus_path
from trainer.data.writing import ShardWriter, building, forget_leftovers, leftovers, locked, publish_index
from trainer.errors import DataError
from trainer.quoting import pasteable
from trainer.tokenizer import Tokenizer, load_tokenizer, open_tokenizer, save_whole
from trainer.tokenizer.base import Ids

SHARD_TOKENS = 100_000_000


def prepare(config: DataConfig, out: Path, report: Report = silently, *, shard_tokens: int = SHARD_TOKENS) -> ShardSet:
    """The shards of the source in `config`, made in `out` if they are not there already.

    A `data.path` that is a prepared folder itself is opened where it is. Several processes may call this at once:
    one works, the others wait for it. Raises DataError; then what was visible in `out` is what it was before.
    """
    assert not config.datasets, "one source at a time"
    if is_prepared_already(config):
        return _opened(corpus_path(config.path), config.tokenizer)
    source = open_source(config)
    fingerprint = _fingerprint(source, config, shard_tokens)
    shards = _finished(out, fingerprint)
    if shards is None or leftovers(out, shards.index):
        with locked(out, lambda: report(Progress("waiting", source.name, bytes_total=source.total_bytes))):
            shards = _finished(out, fingerprint)
            if shards is None:
                publish_index(out, _built(source, config, out, fingerprint, report, shard_tokens))
                shards = open_shards(out)
            forget_journal(out)
            forget_leftovers(out, shards.index)
    return shards


def is_prepared_already(config: DataConfig) -> bool:
    """Whether `config.path` is a folder of shards, which bring their tokenizer with them."""
    return hub_source(config.path) is None and is_prepared(corpus_path(config.path))


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
    except DataError:  # whatever is wrong with them: the source is here, so they can be made again
        return None


def _fingerprint(source: Source, config: DataConfig, shard_tokens: int) -> str:
    """Over all that determines the bytes; where they lie and how they are read later does not."""
    settings = config.model_dump(mode="json", include={"max_samples", "max_tokens", "val_fraction"})
    if config.tokenizer.kind == "folder":
        tokenizer: object = open_tokenizer(config.tokenizer).identity
    else:
        tokenizer = config.tokenizer.model_dump(mode="json", exclude={"path"})
    text = json.dumps([FORMAT, settings, tokenizer, shard_tokens, source.stamp()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _built(source: Source, config: DataConfig, out: Path, fingerprint: str, report: Report, shard_tokens: int) -> Index:
    name = f"tokens-{fingerprint[:12]}"
    with building(out, name, goes_on=_goes_on) as folder:
        journal = read_journal(out, fingerprint)
        if journal.version and isinstance(source, HubText):
            source.read_version(journal.version)
        tokenizer = _tokenizer(config, folder, report)
        writer = ShardWriter(folder, Header(tokenizer.vocab_size, tokenizer.eot_id, tokenizer.identity), shard_tokens)
        if not writer.go_on(journal.tokens):
            journal = Journal(fingerprint, journal.version)
        _require_room(source, config, out, writer)
        empty = _Encoding(source, config, out, tokenizer, writer, report).write(journal)
        source.require_unchanged()
    val_tokens = min(max(round(writer.tokens * config.val_fraction), 1), writer.tokens - 1)
    return Index(
        fingerprint=fingerprint,
        folder=name,
        source=source.name,
        version=source.version,
        tokenizer_kind=tokenizer.kind,
        tokenizer_identity=tokenizer.identity,
        vocab_size=tokenizer.vocab_size,
        eot_id=tokenizer.eot_id,
        documents=writer.documents,
        empty_documents=empty,
        tokens=writer.tokens,
        train_tokens=writer.tokens - val_tokens,
        tokens_sha256=writer.tokens_sha256,
        shards=tuple(header.tokens for header in writer.headers),
    )


def _goes_on(error: BaseException) -> bool:
    """Whether what is half done is worth keeping: somebody asked to stop, or the hub is away; not a text or a disk that
    would fail in the same place again."""
    return isinstance(error, HubUnreachable) or not isinstance(error, (DataError, OSError))


def _tokenizer(config: DataConfig, folder: Path, report: Report) -> Tokenizer:
    """The tokenizer, saved beside the shards. One that was trained before a kill is not trained again."""
    saved = folder / "tokenizer"
    if saved.exists():
        return load_tokenizer(saved)
    kind = config.tokenizer.kind
    tokenizer = trained_bpe(config, report) if kind == "bpe" else open_tokenizer(config.tokenizer)
    save_whole(tokenizer, saved)
    return tokenizer


@dataclass(frozen=True)
class _Encoding:
    """The writing of one source's tokens."""

    source: Source
    config: DataConfig
    out: Path
    tokenizer: Tokenizer
    writer: ShardWriter
    report: Report

    def write(self, journal: Journal) -> int:
        """Write the tokens from the journal's mark on. Returns how many documents had no text."""
        reader = PieceReader(self.source, journal.mark, self.config.max_samples)
        clock, mark, bytes_done = Clock(self.config, self.source, self.writer.tokens), journal.mark, 0
        for batch in () if self._is_full() else batches(reader):
            self._append(encoded(batch, self.tokenizer))
            mark, bytes_done = batch[-1].after, batch[-1].bytes_read
            Journal(journal.fingerprint, self.source.version, self.writer.tokens, mark).write(self.out)
            self._say(clock, mark, bytes_done)
            if self._is_full():
                break
        else:
            mark, bytes_done = reader.mark, self.source.total_bytes
        self._say(clock, mark, bytes_done)
        if not self.writer.tokens:
            raise _empty(self.source, mark)
        return mark.empty

    def _room(self) -> float:
        """Tokens that may still be written."""
        return (self.config.max_tokens or math.inf) - self.writer.tokens

    def _is_full(self) -> bool:
        """Whether no document fits any more: the shortest has a token and its end. An open one needs its end alone."""
        return self._room() < (2 if self.writer.at_document_end else 1)

    def _append(self, ids: Ids) -> None:
        room = self._room()
        if len(ids) >= room:
            ids = cut_at(ids, int(room), self.tokenizer.eot_id, inside=not self.writer.at_document_end)
        self.writer.append(ids)
        self.writer.sync()

    def _say(self, clock: Clock, mark: Mark, bytes_done: int) -> None:
        writer = self.writer
        self.report(
            clock.look(documents=writer.documents, tokens=writer.tokens, samples=mark.samples, bytes_done=bytes_done)
        )


def _require_room(source: Source, config: DataConfig, out: Path, writer: ShardWriter) -> None:
    """Refuse now what would fill the disk in a few hours."""
    if not source.likely_tokens:
        return
    tokens = min(source.likely_tokens, config.max_tokens or source.likely_tokens) - writer.tokens
    free = shutil.disk_usage(out).free
    if tokens * writer.bytes_per_token > free:
        raise DataError(
            f"the disk has no room for the tokens of {source.name}",
            why=f"about {tokens:,} tokens of {writer.bytes_per_token} bytes each, and {free:,} bytes are free",
            hint=f"take a part: `data.max_tokens={free // writer.bytes_per_token // 2}`; `df -h {pasteable(out)}`",
        )


def _empty(source: Source, mark: Mark) -> DataError:
    return DataError(
        f"the corpus {source.name} is empty",
        why=f"{mark.samples} documents, {source.total_bytes} bytes, and no text in them",
        hint="give another with `data.path=FILE_OR_FOLDER`, or use the plays that ship here: `data.path=sample`",
    )
