"""Write a prepared corpus so that it is whole or invisible.

Everything goes into `tokens-<hash>.tmp/`, is fsynced and renamed; the index
that points there comes last, by rename. A run that was killed leaves only a
`.tmp` and its journal: the next one of the same input goes on with it, any
other removes it. What is older than the index goes after it.
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

from trainer.data.journal import JOURNAL, forget_journal
from trainer.data.shard_file import Header, cut_shard, tokens_on_disk, write_shard
from trainer.data.shards import INDEX, Index, shard_name
from trainer.errors import DataError
from trainer.manifest import fsync
from trainer.quoting import pasteable, shown
from trainer.tokenizer.base import Ids

SHARD_PATTERN = "tokens_*.bin"
_OURS = re.compile(r"tokens-[0-9a-f]{12}(\.tmp)?")


class ShardWriter:
    """Takes the stream of ids, and makes shards of at most `shard_tokens` out of it."""

    def __init__(self, folder: Path, header: Header, shard_tokens: int) -> None:
        self._folder, self._empty, self._shard_tokens = folder, header, shard_tokens
        self._digest = hashlib.sha256()
        self.headers: list[Header] = []
        self.at_document_end = True
        self._synced = 0

    @property
    def tokens(self) -> int:
        return sum(header.tokens for header in self.headers)

    @property
    def documents(self) -> int:
        return sum(header.documents for header in self.headers)

    @property
    def tokens_sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def bytes_per_token(self) -> int:
        return self._empty.dtype.itemsize

    def go_on(self, tokens: int) -> bool:
        """Take up so many tokens that were written before, and cut off the rest; False, and nothing, if they are not
        all there."""
        counts = [self._shard_tokens] * (tokens // self._shard_tokens)
        counts += [tokens % self._shard_tokens] if tokens % self._shard_tokens else []
        paths = [self._folder / shard_name(number) for number in range(len(counts))]
        try:
            parts = [tokens_on_disk(path, self._empty.dtype, count) for path, count in zip(paths, counts, strict=True)]
        except (OSError, ValueError):  # a shard is missing, or shorter than the journal says
            parts, paths = [], []
        for path in set(self._folder.glob(SHARD_PATTERN)) - set(paths):
            path.unlink()
        for path, part in zip(paths, parts, strict=True):
            self._take_up(path, part)
        return bool(parts)

    def _take_up(self, path: Path, part: Ids) -> None:
        header = replace(self._empty, tokens=len(part), documents=int(np.count_nonzero(part == self._empty.eot_id)))
        self._digest.update(np.ascontiguousarray(part).data)
        self.at_document_end = bool(part[-1] == self._empty.eot_id)
        cut_shard(path, header)
        self.headers.append(header)

    def sync(self) -> None:
        """What was appended is safe on the disk when this returns."""
        for number in range(self._synced, len(self.headers)):
            fsync(self._folder / shard_name(number))
        self._synced = max(len(self.headers) - 1, 0)

    def append(self, ids: Ids) -> None:
        """Add `ids` to the end of the stream."""
        ids = np.ascontiguousarray(ids, dtype=self._empty.dtype)
        self._digest.update(ids.data)
        self.at_document_end = bool(ids[-1] == self._empty.eot_id) if len(ids) else self.at_document_end
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
def building(out: Path, name: str, *, goes_on: Callable[[BaseException], bool]) -> Iterator[Path]:
    """A folder to write to, which becomes `out/name` when the block ends well.

    It has what an earlier one of the same name left there. When the block ends badly, it is removed, unless `goes_on`
    says that the error may be another one the next time.
    """
    folder = out / f"{name}.tmp"
    with _writing(out):
        for path in out.iterdir():
            if _OURS.fullmatch(path.name) and path.suffix == ".tmp" and path != folder:
                shutil.rmtree(path)
        if not folder.exists() and (out / JOURNAL).exists() and (out / name).exists():
            (out / name).rename(folder)  # killed between the rename and the index
        folder.mkdir(exist_ok=True)
        try:
            yield folder
            _publish(folder, out / name)
        except BaseException as error:
            if not goes_on(error):
                shutil.rmtree(folder, ignore_errors=True)
                forget_journal(out)
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
