"""A text file as one document. UTF-8; what is not is refused with the file and the byte, never guessed at."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from trainer.data.compressed import opened
from trainer.errors import DataError
from trainer.quoting import pasteable, shown

BLOCK_BYTES = 1 << 20


def text_blocks(path: Path) -> Iterator[str]:
    """The text of the file, in parts. Raises DataError."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with opened(path) as (stream, _):
        while data := stream.read(BLOCK_BYTES):
            text = decoded(decoder, data, path, offset)
            yield text.removeprefix("\ufeff") if offset == 0 else text
            offset += len(data)
    yield decoded(decoder, b"", path, offset)


def decoded(decoder: codecs.IncrementalDecoder, data: bytes, path: Path, offset: int) -> str:
    """The text of `data`, which stands at `offset`. Raises DataError where it is binary or not UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") and offset == 0:
        raise _wrong_encoding(path, 0, "it begins like UTF-16", "UTF-16")
    if (zero := data.find(b"\0")) >= 0:
        raise DataError(
            f"{shown(path)} is binary, not text",
            why=f"byte {offset + zero} is NUL",
            hint=f"`file {pasteable(path)}` tells what it is; take it out of the corpus",
        )
    try:
        return decoder.decode(data, final=not data)
    except UnicodeDecodeError as error:
        pending = len(error.object) - len(data)  # the start of a character, kept from the block before
        raise _wrong_encoding(path, offset - pending + error.start, error.reason, "WINDOWS-1252") from error


def _wrong_encoding(path: Path, offset: int, reason: str, likely: str) -> DataError:
    name = pasteable(path)
    return DataError(
        f"{shown(path)} is not UTF-8 text",
        why=f"byte {offset}: {reason}",
        hint=f"if it is {likely}: `iconv -f {likely} -t UTF-8 {name} > converted && mv converted {name}`",
    )
