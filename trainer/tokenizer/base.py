"""What every tokenizer is, and the small facts they share.

Ordinary text never becomes a special id, not even text that spells
`<|endoftext|>`: only the code that ends a document or a turn writes such ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.tokenizer.special import END_OF_TEXT

__all__ = ["END_OF_TEXT", "IDENTITY_FILE", "SAVED_HINT", "Ids", "Tokenizer"]

IDENTITY_FILE = "identity.json"
"""In the folder of a saved tokenizer: its kind, its size and its identity."""

SAVED_HINT = "copy the folder again from where it was written, or prepare the corpus again: `python -m trainer prepare`"
"""For a saved tokenizer that is damaged."""

Ids = NDArray[np.integer[Any]]
"""Token ids, in whatever width the tokenizer gives them."""


class Tokenizer(Protocol):
    """Text to ids and back, without loss: `decode(encode(text)) == text` for every well-formed text."""

    @property
    def kind(self) -> str:
        """`bytes`, `gpt2`, `bpe`, or `folder` for one of another program."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included. A `bpe` of a small corpus may have fewer than were asked for."""
        ...

    @property
    def eot_id(self) -> int:
        """The id that ends a document."""
        ...

    @property
    def special_ids(self) -> Mapping[str, int]:
        """The ids no text becomes, by how they read: end-of-text, and what it has of special.py."""
        ...

    @property
    def identity(self) -> str:
        """sha256 over what determines the ids. Equal identities mean equal ids for every text."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; never a special one. Lone surrogates count as U+FFFD."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, on all cores. Give pieces (see pieces.py), not gigabytes."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Bytes that are no UTF-8, and ids beyond the vocabulary, become U+FFFD."""
        ...

    def save(self, folder: Path) -> None:
        """Make `folder` and write what `load_tokenizer` reads. Fsync and rename are for whoever publishes it."""
        ...


def save_identity(tokenizer: Tokenizer, folder: Path) -> None:
    """Make `folder` and write down which tokenizer it is going to hold."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "sha256": tokenizer.identity}
    (folder / IDENTITY_FILE).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")


def identity_of(**parts: Any) -> str:
    """sha256 of `parts` in one canonical spelling."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def well_formed(text: str) -> str:
    """`text` with lone surrogates replaced by U+FFFD: JSON may carry them, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def text_of(ids: Iterable[int], table: Sequence[bytes]) -> str:
    """The text of `ids` where `table[id]` has the bytes of an id; ids beyond the table become U+FFFD."""
    unknown = "\ufffd".encode()  # a model with a padded vocabulary may sample ids that no tokenizer has
    return b"".join(table[i] if 0 <= i < len(table) else unknown for i in ids).decode("utf-8", "replace")
