"""A prepared corpus: shards, their tokenizer, and an index that was written last.

    out/index.json               what there is, and from which input it was made
    out/tokens-3f2a9c1047bb/     tokens_00000.bin …, tokenizer/

The tokens are one long stream, every document closed by the end-of-text id;
training takes its beginning, validation its end. Files are opened once and
mapped. Without a readable index there is nothing here.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.shard_file import PREPARE_HINT, mapped_tokens, read_header
from trainer.errors import DataError
from trainer.quoting import shown
from trainer.tokenizer import Tokenizer, load_tokenizer
from trainer.tokenizer.base import Ids, identity_of

INDEX = "index.json"
FORMAT = "gptops-shards-2"


@dataclass(frozen=True)
class Index:
    """The contents of index.json."""

    fingerprint: str
    """sha256 over the input files' stamps and the configuration they were prepared with."""
    folder: str
    """Where the shards and the tokenizer are, beside the index."""
    source: str
    """What the text was called."""
    version: str
    """Which version of it: the hub's commit; "" for files."""
    tokenizer_kind: str
    tokenizer_identity: str
    vocab_size: int
    eot_id: int
    documents: int
    empty_documents: int
    """Left out, because they have no text."""
    tokens: int
    train_tokens: int
    """The first ones of the stream; the rest is for validation."""
    tokens_sha256: str
    """Over the ids of all shards, one after the other."""
    shards: tuple[int, ...]
    """Tokens in each shard."""

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


@dataclass(frozen=True)
class ShardSet:
    """Shards that were opened, and found to belong together."""

    root: Path
    index: Index
    _maps: tuple[Ids, ...]
    _starts: tuple[int, ...]

    @property
    def vocab_size(self) -> int:
        return self.index.vocab_size

    @property
    def eot_id(self) -> int:
        return self.index.eot_id

    @property
    def documents(self) -> int:
        return self.index.documents

    @property
    def tokens(self) -> int:
        return self.index.tokens

    @property
    def train_tokens(self) -> int:
        return self.index.train_tokens

    @property
    def val_tokens(self) -> int:
        return self.index.tokens - self.index.train_tokens

    @property
    def tokenizer_kind(self) -> str:
        return self.index.tokenizer_kind

    @property
    def tokenizer_identity(self) -> str:
        return self.index.tokenizer_identity

    @property
    def tokenizer_folder(self) -> Path:
        return self.root / self.index.folder / "tokenizer"

    @property
    def identity(self) -> str:
        """Equal for equal tokens, tokenizer and split, wherever and whenever they were prepared."""
        index = self.index
        return identity_of(
            tokenizer=index.tokenizer_identity, tokens=index.tokens_sha256, train_tokens=index.train_tokens
        )

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer the shards were made with. Raises DataError."""
        return load_tokenizer(self.tokenizer_folder)

    def require_vocabulary(self, model_vocab_size: int) -> None:
        """Raises DataError where the embedding of a model has no row for some id."""
        if model_vocab_size < self.vocab_size:
            raise DataError(
                f"the shards in {shown(self.root)} do not fit the model",
                why=f"they have {self.vocab_size} different tokens, the model has {model_vocab_size}",
                hint=f"`model.vocab_size={self.vocab_size}`, or leave it out",
            )

    @cached_property
    def document_ends(self) -> NDArray[np.int64]:
        """Where every end-of-text stands. Reads every token, once."""
        found = [
            np.flatnonzero(ids == self.eot_id) + start for ids, start in zip(self._maps, self._starts, strict=True)
        ]
        return np.concatenate(found).astype(np.int64)

    def copy_into(self, out: Ids, start: int) -> None:
        """Fill `out` with the tokens from `start` on, over the borders of shards."""
        shard, filled = bisect_right(self._starts, start) - 1, 0
        while filled < len(out):
            begin = start + filled - self._starts[shard]
            part = self._maps[shard][begin : begin + len(out) - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            shard += 1


def shard_name(number: int) -> str:
    """`tokens_00000.bin` for 0."""
    return f"tokens_{number:05d}.bin"


def is_prepared(folder: Path) -> bool:
    """Whether `folder` looks like the output of `prepare`, whole or damaged."""
    return os.path.isfile(folder / INDEX) and any(_GENERATION.fullmatch(path.name) for path in folder.glob("tokens-*"))


def open_shards(folder: Path, expected: Tokenizer | None = None) -> ShardSet:
    """The shards of `folder`, every header and size checked, and their tokenizer against `expected`.

    Raises DataError where one is missing, damaged or of another tokenizer. The ids themselves are not read.
    """
    index = read_index(folder)
    if expected is not None and expected.identity != index.tokenizer_identity:
        raise DataError(
            f"the shards in {shown(folder)} were made with another tokenizer",
            why=f"theirs is `{index.tokenizer_kind}` {index.tokenizer_identity[:12]}, "
            f"expected is `{expected.kind}` {expected.identity[:12]}",
            hint=PREPARE_HINT,
        )
    maps = tuple(
        _open_shard(folder / index.folder / shard_name(number), index, tokens)
        for number, tokens in enumerate(index.shards)
    )
    return ShardSet(folder, index, maps, tuple(accumulate(index.shards[:-1], initial=0)))


def read_index(folder: Path) -> Index:
    """The index of a prepared folder. Raises DataError."""
    path = folder / INDEX
    try:
        index = _parsed(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DataError(
            f"there are no prepared shards in {shown(folder)}", why=f"{INDEX} is missing", hint=PREPARE_HINT
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {shown(path)}", why=error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{shown(path)} is damaged", why=f"{type(error).__name__}: {error}", hint=PREPARE_HINT
        ) from error
    return index


def _parsed(raw: dict[str, Any]) -> Index:
    values = {**raw, "shards": tuple(int(tokens) for tokens in raw["shards"])}
    if values.pop("format") != FORMAT:
        raise ValueError(f"format {raw['format']!r}, this version reads {FORMAT!r}")
    index = Index(**values)
    if not _GENERATION.fullmatch(index.folder):
        raise ValueError(f"folder {index.folder!r}")
    if sum(index.shards) != index.tokens or not 0 < index.train_tokens <= index.tokens or 0 in index.shards:
        raise ValueError("the counts contradict each other")
    return index


def _open_shard(path: Path, index: Index, tokens: int) -> Ids:
    header = read_header(path)
    if header.tokenizer_identity != index.tokenizer_identity:
        why = f"it is of another tokenizer: {header.tokenizer_identity[:12]}, not {index.tokenizer_identity[:12]}"
    elif (header.vocab_size, header.eot_id) != (index.vocab_size, index.eot_id):
        why = f"it has a vocabulary of {header.vocab_size}, not {index.vocab_size}"
    elif header.tokens != tokens:
        why = f"it has {header.tokens} tokens, not {tokens}"
    else:
        return mapped_tokens(path, header)
    raise DataError(f"the shard {shown(path)} does not belong here", why=why, hint=PREPARE_HINT)


_GENERATION = re.compile(r"tokens-[0-9a-f]{12}")
