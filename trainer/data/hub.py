"""Documents of a dataset of the Hugging Face hub, streamed by `datasets`: nothing of it is kept on the disk.

The commit is looked up once, and every file is read as of that commit; files come one after the other, in the order
the dataset lists them. Where the connection fails, the file is opened again and read on from the row that was reached.
A private or gated dataset is read with HF_TOKEN; HF_ENDPOINT names another hub.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from trainer.config.sources import HubSource
from trainer.data.columns import Columns
from trainer.data.documents import START, Document, Place
from trainer.data.hub_errors import chain, may_pass, refusal, unreachable
from trainer.data.row_files import require_text_columns
from trainer.errors import DataError, TrainerError

PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Between two attempts, while nothing is read; `datasets` itself has tried several times by then."""
ROWS_AT_ONCE = 1000

_log = logging.getLogger(__name__)


class HubText:
    """The documents of one dataset, configuration and split."""

    total_bytes = 0

    def __init__(self, source: HubSource, columns: Columns, version: str = "") -> None:
        self._source, self._columns, self._version = source, columns, version
        self._stream: Any = None

    @property
    def name(self) -> str:
        return f"`hf:{self._source.name}`"

    @property
    def likely_tokens(self) -> int:
        return self._source.tokens

    @property
    def version(self) -> str:
        """The commit; asks the hub the first time."""
        if not self._version:
            self._version = self._patiently(self._newest_commit)
        return self._version

    def read_version(self, version: str) -> None:
        """Go on with the commit that was begun with."""
        self._version, self._stream = version, None

    def stamp(self) -> Any:
        return [self._source.name, list(self._columns.names), self._columns.template, self._source.begins_document]

    def require_unchanged(self) -> None:
        """A commit never changes."""

    def documents(self, start: Place = START) -> Iterator[Document]:
        rows = self._rows(start)
        return _joined(rows, self._source.begins_document) if self._source.begins_document else _each(rows)

    def _rows(self, start: Place) -> Iterator[tuple[Place, str]]:
        files = self._patiently(lambda: self._opened().num_shards)
        for file in range(start.file, files):
            place = start if file == start.file else Place(file)
            yield from self._rows_of_file(place, files)

    def _rows_of_file(self, place: Place, files: int) -> Iterator[tuple[Place, str]]:
        """The rows from `place` on, however often the connection is lost, unless nothing more comes."""
        attempts, row = 0, place.row
        while True:
            try:
                for text in self._texts(Place(place.file, row), files):
                    yield Place(place.file, row), text
                    attempts, row = 0, row + 1
                return
            except Exception as error:  # noqa: BLE001 - whatever `datasets` and what it stands on raise
                self._pause_or_raise(error, attempts)
                attempts, self._stream = attempts + 1, None

    def _texts(self, place: Place, files: int) -> Iterator[str]:
        where = f"{self.name}, file {place.file + 1} of {files}"
        shard = self._opened().shard(num_shards=files, index=place.file).with_format("arrow")
        seen = 0
        for table in shard.iter(batch_size=ROWS_AT_ONCE):
            if not seen:
                require_text_columns(table.schema, self._columns, self.name)
            read = table.select(list(self._columns.names)) if self._columns.names else table
            rows = read.slice(max(place.row - seen, 0)).to_pylist()
            seen += len(table)
            yield from (self._columns.text(row, where) for row in rows)

    def _opened(self) -> Any:
        """The dataset as `datasets` streams it, with the columns that are read and no other where that is possible."""
        if self._stream is None:
            datasets = _datasets()
            source = self._source
            builder = datasets.load_dataset_builder(source.dataset, source.config or None, revision=self.version)
            stream = builder.as_streaming_dataset(split=source.split)
            if stream.column_names is not None:
                self._columns.require(stream.column_names, self.name)
            if self._columns.names and stream.column_names is not None and hasattr(builder.config, "columns"):
                builder.config.columns = list(self._columns.names)
                stream = builder.as_streaming_dataset(split=source.split)
            self._stream = stream
        return self._stream

    def _newest_commit(self) -> str:
        _datasets()
        from huggingface_hub import HfApi

        return str(HfApi().dataset_info(self._source.dataset, timeout=30.0).sha)

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        attempts = 0
        while True:
            try:
                return ask()
            except Exception as error:  # noqa: BLE001 - whatever `datasets` and what it stands on raise
                self._pause_or_raise(error, attempts)
                attempts += 1

    def _pause_or_raise(self, error: Exception, attempts: int) -> None:
        if (ours := next((one for one in chain(error) if isinstance(one, TrainerError)), None)) is not None:
            raise ours  # a refusal of a row, or somebody asked to stop: `datasets` may have wrapped it
        if not may_pass(error):
            raise refusal(error, self._source) from error
        if attempts >= len(PAUSES_SECONDS):
            raise unreachable(error, self._source, attempts + 1) from error
        _log.warning("%s: %s; trying again in %g s", self.name, type(error).__name__, PAUSES_SECONDS[attempts])
        time.sleep(PAUSES_SECONDS[attempts])


def _each(rows: Iterator[tuple[Place, str]]) -> Iterator[Document]:
    for place, text in rows:
        yield Document((text,), place, Place(place.file, place.row + 1))


def _joined(rows: Iterator[tuple[Place, str]], begins_document: str) -> Iterator[Document]:
    """Lines made one document, up to the next line that begins one. An article is small enough to be held."""
    begins, after, lines = Place(), Place(), list[str]()
    for place, text in rows:
        if lines and (re.fullmatch(begins_document, text) or place.file != begins.file):
            yield Document((*lines,), begins, after)
            lines = []
        if not lines:
            begins = place
        lines.append(text)
        after = Place(place.file, place.row + 1)
    if lines:
        yield Document((*lines,), begins, after)


def _datasets() -> Any:
    try:
        import datasets  # late: heavy, and only datasets of the hub need it
        import huggingface_hub
    except ImportError as error:
        raise DataError(
            "reading from the hub needs the package datasets", why=str(error), hint="`pip install datasets`"
        ) from error
    # By default it tries for ten minutes before it says that the connection is lost.
    datasets.config.STREAMING_READ_MAX_RETRIES = 3
    datasets.disable_progress_bars()
    # Both warn at every attempt; what matters of that is said here, once.
    datasets.logging.set_verbosity(logging.CRITICAL)
    huggingface_hub.logging.set_verbosity(logging.CRITICAL)
    return datasets
