"""The tokenizer that needs nothing: the 256 bytes of UTF-8, and end-of-text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from trainer.tokenizer.base import END_OF_TEXT, Ids, identity_of, save_identity, text_of, well_formed


class BytesTokenizer:
    """Ids 0–255 are bytes, 256 is end-of-text."""

    kind = "bytes"
    vocab_size = 257
    eot_id = 256
    special_ids: ClassVar[Mapping[str, int]] = {END_OF_TEXT: eot_id}
    identity = identity_of(kind="bytes", vocab_size=257)

    def encode(self, text: str) -> list[int]:
        return list(well_formed(text).encode())

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [np.frombuffer(well_formed(text).encode(), dtype=np.uint8) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return text_of(ids, _TABLE)

    def save(self, folder: Path) -> None:
        save_identity(self, folder)


_TABLE = [bytes([byte]) for byte in range(256)] + [END_OF_TEXT.encode()]
