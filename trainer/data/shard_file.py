"""One shard: a header of 256 bytes, then token ids, little-endian, nothing else.

    magic 8s · version u32 · bytes per id u32 · vocabulary u32 · end-of-text id u32 · tokens u64 · documents u64 ·
    sha256 of the tokenizer 32s · zeros

The header tells a reader everything it needs to refuse the file: another
tokenizer, another vocabulary, a missing end.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import DataError
from trainer.quoting import shown
from trainer.tokenizer.base import Ids

MAGIC = b"GPTOPSTK"
VERSION = 1
HEADER_BYTES = 256
PREPARE_HINT = "prepare the corpus again: `python -m trainer prepare data.path=FILE_OR_FOLDER`"
_LAYOUT = struct.Struct("<8sIIIIQQ32s")


@dataclass(frozen=True)
class Header:
    """What a shard says about itself."""

    vocab_size: int
    eot_id: int
    tokenizer_identity: str
    tokens: int = 0
    documents: int = 0
    """Documents that end in this shard."""

    @property
    def dtype(self) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
        """The narrowest type the vocabulary fits in."""
        return np.dtype("<u2") if self.vocab_size <= 1 << 16 else np.dtype("<u4")

    def to_bytes(self) -> bytes:
        packed = _LAYOUT.pack(
            MAGIC,
            VERSION,
            self.dtype.itemsize,
            self.vocab_size,
            self.eot_id,
            self.tokens,
            self.documents,
            bytes.fromhex(self.tokenizer_identity),
        )
        return packed.ljust(HEADER_BYTES, b"\0")


def read_header(path: Path) -> Header:
    """The header of a shard, after its size was found to match. Raises DataError."""
    try:
        with path.open("rb") as file:
            raw = file.read(HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise _unusable(path, f"it cannot be read: {error.strerror}") from error
    if not raw.startswith(MAGIC):
        raise _unusable(path, "it does not begin like a shard of gptops")
    if len(raw) < HEADER_BYTES:
        raise _unusable(path, f"it is truncated: {size} bytes, the header alone has {HEADER_BYTES}")
    _, version, itemsize, vocab_size, eot_id, tokens, documents, identity = _LAYOUT.unpack(raw[: _LAYOUT.size])
    if version != VERSION:
        raise _unusable(path, f"it has format {version}, this version reads {VERSION}")
    header = Header(vocab_size, eot_id, identity.hex(), tokens, documents)
    if itemsize != header.dtype.itemsize or eot_id >= vocab_size:
        raise _unusable(path, f"its header contradicts itself: {vocab_size} tokens in {itemsize} bytes each")
    if size != HEADER_BYTES + tokens * itemsize:
        state = "truncated" if size < HEADER_BYTES + tokens * itemsize else "longer than it should be"
        raise _unusable(path, f"it is {state}: {size} bytes, {HEADER_BYTES + tokens * itemsize} were written")
    return header


def mapped_tokens(path: Path, header: Header) -> Ids:
    """The ids of a shard, mapped, not read."""
    try:
        mapped = np.memmap(path, dtype=header.dtype, mode="r", offset=HEADER_BYTES, shape=(header.tokens,))
    except (OSError, ValueError) as error:
        raise _unusable(path, f"it cannot be mapped: {error}") from error
    return np.asarray(mapped)  # the plain view slices several times faster than numpy.memmap itself


def write_shard(path: Path, header: Header, ids: Ids) -> None:
    """Append `ids` to the shard, or begin it. `header` is the new one, which counts them."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(header.to_bytes())
        file.seek(0, os.SEEK_END)
        file.write(np.ascontiguousarray(ids, dtype=header.dtype).data)


def tokens_on_disk(path: Path, dtype: np.dtype[Any], tokens: int) -> Ids:
    """The first ids of a shard that may be unfinished. Raises OSError or ValueError where there are not as many."""
    return np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(tokens,))


def cut_shard(path: Path, header: Header) -> None:
    """Make the shard what `header` says: what it holds beyond that goes."""
    with path.open("r+b") as file:
        file.write(header.to_bytes())
        file.truncate(HEADER_BYTES + header.tokens * header.dtype.itemsize)


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        f"the shard {shown(path)} cannot be used",
        why=why,
        hint=PREPARE_HINT,
    )
