"""Write a prepared corpus so that it is whole or invisible.

Everything goes into `tokens-<hash>.tmp/`, is fsynced and renamed; the index
that points there comes last, by rename. A run that was killed leaves only a
`.tmp`, which the next one removes. What is older than the index goes after it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainer.data.shard_file import Header, write_shard
from trainer.data.shards import INDEX, Index, shard_name
from trainer.errors import DataError
from trainer.manifest import fsync
from trainer.quoting import pasteable, shown
from trainer.tokenizer.base import Ids

_OURS = re.compile(r"tokens-[0-9a-f]{12}(\.tmp)?")


class ShardWriter:
    """Takes the stream of ids, and makes shards of at most `shard_tokens` out of it."""

    def __init__(self, folder: Path, header: Header, shard_tokens: int) -> None:
        self._folder, self._empty, self._shard_tokens = folder, header, shard_tokens
        self._digest = hashlib.sha256()
        self.headers: list[Header] = []

    @property
    def tokens(self) -> int:
        return sum(header.tokens for header in self.headers)

    @property
    def documents(self) -> int:
        return sum(header.documents for header in self.headers)

    @property
    def tokens_sha256(self) -> str:
        return self._digest.hexdigest()

    def append(self, ids: Ids) -> None:
        """Add `ids` to the end of the stream."""
        ids = np.ascontiguousarray(ids, dtype=self._empty.dtype)
        self._digest.update(ids.data)
        while len(ids):
            if not self.headers or self.headers[-1].tokens == self._shard_tokens:
                self.headers.append(self._empty)
            ids = self._fill_last(ids)

    def _fill_last(self, ids: Ids) -> Ids:
        """Write what the last shard has room for; returns the rest."""
        header = self.headers[-1]
        part, rest = np.split(ids, [self._shard_tokens - header.tokens])
        documents = int(np.count_nonzero(part == header.eot_id))
        header = replace(header, tokens=header.tokens + len(part), documents=header.documents + documents)
        write_shard(self._folder / shard_name(len(self.headers) - 1), header, part)
        self.headers[-1] = header
        return rest


@contextmanager
def locked(out: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Make `out`, and be the only one who writes there. Calls `waiting` once if somebody else does.

    The lock is the kernel's: it cannot outlive the process that holds it.
    """
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("w")
    with file:
        with _writing(out):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def building(out: Path, name: str) -> Iterator[Path]:
    """A fresh folder to write to; it becomes `out/name` when the block ends well, and is removed when it does not."""
    folder = out / f"{name}.tmp"
    with _writing(out):
        for path in out.iterdir():
            if _OURS.fullmatch(path.name) and path.suffix == ".tmp":
                shutil.rmtree(path)
        folder.mkdir()
        try:
            yield folder
            _publish(folder, out / name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def publish_index(out: Path, index: Index) -> None:
    """Make the shards the index names the ones that count."""
    with _writing(out):
        path = out / f"{INDEX}.tmp"
        path.write_text(index.to_json(), encoding="utf-8")
        fsync(path)
        path.replace(out / INDEX)
        fsync(out)


def leftovers(out: Path, index: Index) -> list[Path]:
    """Folders of ours that are not the ones the index names: older shards, and what a kill left half done."""
    return [path for path in out.glob("tokens-*") if _OURS.fullmatch(path.name) and path.name != index.folder]


def forget_leftovers(out: Path, index: Index) -> None:
    """Remove them. Only for who holds the lock: somebody else's half may be among them."""
    with _writing(out):
        for path in leftovers(out, index):
            shutil.rmtree(path)


def _publish(folder: Path, final: Path) -> None:
    for path in [*sorted(folder.rglob("*")), folder]:
        fsync(path)
    if final.exists():  # of the same input, but damaged: it would not have been built again otherwise
        shutil.rmtree(final)
    folder.rename(final)
    fsync(final.parent)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write to {shown(out)}", **_advice(error, out)) from error


def _advice(error: OSError, out: Path) -> dict[str, str]:
    why = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"why": why, "hint": f"`df -h {pasteable(out)}`; the shards need about half the size of the text"}
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return {"why": why, "hint": "choose a folder you may write to: `out_dir=FOLDER`"}
    return {"why": why, "hint": f"`ls -ld {pasteable(out)}`"}
