"""Which source a configuration means: a dataset of the hub, or files."""

from __future__ import annotations

from trainer.config import DataConfig
from trainer.config.sources import TEXT, hub_source
from trainer.data.columns import Columns
from trainer.data.documents import Source
from trainer.data.hub import HubText
from trainer.data.readers import FileSource
from trainer.data.sources import corpus_path, find_corpus
from trainer.errors import DataError


def open_source(config: DataConfig) -> Source:
    """The source of `config.path`, not read yet, and of the hub not asked for. Raises DataError."""
    if config.mapping.named:
        raise DataError(
            "`data.mapping` is for rows of conversations: a corpus has text",
            hint="data.text_column=COLUMN, or data.template='Q: {question}'",
        )
    hub = hub_source(config.path)
    if hub is None:
        return FileSource(find_corpus(corpus_path(config.path)), Columns(config.text_column or TEXT, config.template))
    template = config.template or ("" if config.text_column else hub.template)
    return HubText(hub, Columns(config.text_column or hub.column, template))
