"""Which files are the corpus.

One file, or every .txt, .md, .json, .jsonl and .parquet below a folder, packed
or not, in one order on every machine. What is inside them is for readers.py.
Names that begin with a dot are left out; so are other kinds of files, and
their number is kept.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.config.sources import NAMED, SAMPLE, nearest_name
from trainer.data.compressed import PACKED, kind_of
from trainer.errors import DataError
from trainer.quoting import pasteable, shown

SUFFIXES = (".txt", ".md", ".json", ".jsonl", ".parquet")
_OURS = re.compile(r"tokens-[0-9a-f]{12}(\.tmp)?|identity\.json|MANIFEST\.json")
"""What shards, tokenizers and checkpoints are known by: folders that have it are passed by, their .json is not text."""
_READ = f"{', '.join(SUFFIXES)}, each also as .gz or .zst"


@dataclass(frozen=True)
class SourceFile:
    """One file of a corpus, as it was when it was found."""

    path: Path
    name: str
    """Relative to the corpus, so that a corpus that was moved is still the same."""
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Corpus:
    """The files of a corpus, in their order."""

    path: Path
    files: tuple[SourceFile, ...]
    ignored: int
    """Files in the folder of a kind that is not read."""

    @property
    def total_bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def stamp(self) -> list[tuple[str, int, int]]:
        """What changes when a file is added, removed, renamed or written."""
        return [(file.name, file.bytes, file.mtime_ns) for file in self.files]


def corpus_path(path: str) -> Path:
    """What `data.path` means: `sample`, or a path that starts at the current folder or at `~`."""
    if not path.strip():
        raise DataError(
            "data.path is empty", hint="`data.path=FILE_OR_FOLDER`, or the plays that ship here: `data.path=sample`"
        )
    return Path(__file__).with_name("shakespeare.txt") if path == SAMPLE else Path(os.path.expanduser(path))


def find_corpus(path: Path) -> Corpus:
    """The files below `path`. Raises DataError where there are none, or one cannot be reached."""
    state = _stat(path)
    if stat.S_ISDIR(state.st_mode):
        return _folder(path)
    if not _is_read(path):
        raise DataError(
            f"{shown(path)} is not a kind of file that can be read",
            why=f"its name ends in `{path.suffix}`; read are {_READ}, and folders of them",
            hint=f"if it is plain text: `cp {pasteable(path)} {pasteable(path.with_suffix('.txt'))}`",
        )
    return Corpus(path, (_source_file(path, path.name, state),), ignored=0)


def _folder(root: Path) -> Corpus:
    files, others = [], Counter[str]()
    for path in sorted(_walk(root, frozenset()), key=lambda path: os.fsencode(path.relative_to(root).as_posix())):
        if _is_read(path) and stat.S_ISREG((state := _stat(path)).st_mode):
            files.append(_source_file(path, path.relative_to(root).as_posix(), state))
        else:
            others[path.suffix.lower() or "no ending"] += 1
    if not files:
        seen = ", ".join(f"{count} with {suffix}" for suffix, count in others.most_common(5))
        raise DataError(
            f"there is no text in {shown(root)}",
            why=f"read are {_READ}; " + (f"the folder has {seen}" if seen else "the folder is empty"),
            hint=f"`find {pasteable(root)} -type f | head` shows what is there",
        )
    return Corpus(root, tuple(files), ignored=sum(others.values()))


def _is_read(path: Path) -> bool:
    """By the name alone. A packed table would have to be unpacked whole before its first row is known."""
    kind = kind_of(path)
    return kind in SUFFIXES and not (kind == ".parquet" and path.suffix.lower() in PACKED)


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Every file below `folder`. Links are followed, but not in circles; what was made here is no text."""
    state = _stat(folder)
    above |= {(state.st_dev, state.st_ino)}
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise _unreachable(folder, error) from error
    if len(above) > 1 and any(_OURS.fullmatch(name) for name in names):
        return
    for path in (folder / name for name in names):
        if not os.path.isdir(path):
            yield path
        elif (_stat(path).st_dev, _stat(path).st_ino) not in above:
            yield from _walk(path, above)


def _source_file(path: Path, name: str, state: os.stat_result) -> SourceFile:
    return SourceFile(path, name, state.st_size, state.st_mtime_ns)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreachable(path, error) from error
    except ValueError as error:  # a NUL in the path
        raise DataError(f"{shown(path)} cannot be a path", why=str(error)) from error


def _unreachable(path: Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return DataError(f"{shown(path)} is a link to nothing", hint=f"`ls -l {pasteable(path)}`")
        where = "" if path.is_absolute() else f"; relative paths start at {shown(Path.cwd())}"
        return DataError(
            f"there is no corpus at {shown(path)}{nearest_name(str(path))}",
            why=f"no such file or folder{where}; the names are {', '.join([SAMPLE, *NAMED])}",
            hint="give one with `data.path=FILE_OR_FOLDER`, or use the plays that ship here: `data.path=sample`",
        )
    if isinstance(error, PermissionError):
        return DataError(
            f"may not read {shown(path)}", why="permission denied", hint=f"`sudo chmod -R a+rX {pasteable(path)}`"
        )
    return DataError(f"cannot read {shown(path)}", why=error.strerror or str(error))
