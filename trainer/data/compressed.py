"""Files as streams of bytes, unpacked on the way where their name ends in .gz or .zst."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from trainer.errors import DataError
from trainer.quoting import pasteable, shown

PACKED = (".gz", ".zst")


def kind_of(path: Path | str) -> str:
    """What is inside, by the name: `.jsonl` for `a.jsonl.gz`; a packed file without another ending is text."""
    name = Path(path).name.lower()
    packed = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    return Path(name.removesuffix(packed)).suffix or (".txt" if packed else "")


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The unpacked bytes, and the file itself, whose `tell` says how far reading is. Raises DataError."""
    try:
        with path.open("rb") as file, _unpacked(path, file) as stream:
            yield stream, file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if path.suffix.lower() == ".zst" and error.errno is None:  # an error of the format, not of the disk
            raise _damaged(path, error) from error
        raise DataError(f"cannot read {shown(path)}", why=error.strerror or str(error)) from error


def _unpacked(path: Path, file: BinaryIO) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if path.suffix.lower() == ".zst":
        return cast(BinaryIO, io.BufferedReader(_zstd(file), 1 << 16))
    return file


class _Readable(io.RawIOBase):
    """What io.BufferedReader wants, around a stream of pyarrow's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _zstd(file: BinaryIO) -> io.RawIOBase:
    pyarrow = imported_pyarrow("reading .zst")
    return _Readable(pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd"))


def imported_pyarrow(purpose: str) -> Any:
    """The package. Raises DataError where it is missing."""
    try:
        import pyarrow  # late: heavy, and only some kinds of files need it
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{purpose} needs the package pyarrow", why=str(error), hint="`pip install pyarrow`") from error
    return pyarrow


def _damaged(path: Path, error: Exception) -> DataError:
    test = "zstd" if path.suffix.lower() == ".zst" else "gzip"
    return DataError(
        f"{shown(path)} is not a whole {path.suffix.lower()} file",
        why=(str(error).splitlines() or [type(error).__name__])[0],
        hint=f"fetch it again: it is truncated or damaged; `{test} -t {pasteable(path)}` says the same",
    )
