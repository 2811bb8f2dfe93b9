"""A byte-level BPE trained on the user's own corpus, by Hugging Face `tokenizers`.

The same corpus and vocabulary size give the same merges. The special tokens are
not in the trained vocabulary: their ids follow it, so no text reaches them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import DataError
from trainer.quoting import shown
from trainer.tokenizer.base import SAVED_HINT, Ids, identity_of, save_identity, text_of, well_formed
from trainer.tokenizer.pieces import pieces
from trainer.tokenizer.special import END_OF_TEXT, PAD, SPECIAL_TOKENS

FILE_NAME = "tokenizer.json"
"""In the format of `tokenizers`, so that other programs read it too."""
CONFIG_FILE = "tokenizer_config.json"
"""What transformers' AutoTokenizer looks for beside it."""

Merges = list[tuple[str, str]]


class BpeTokenizer:
    """256 bytes, merges in the order they were learnt, and the special tokens."""

    kind = "bpe"

    def __init__(self, vocab: dict[str, int], merges: Merges, special: Sequence[str] = SPECIAL_TOKENS) -> None:
        self._tokenizer = _assembled(vocab, merges)
        self._vocab, self._special = vocab, tuple(special)
        self.special_ids = {token: len(vocab) + n for n, token in enumerate(special)}
        self.eot_id = self.special_ids[END_OF_TEXT]
        self.vocab_size = len(vocab) + len(special)
        # The first tokenizers had end-of-text alone, and their identity did not mention it.
        named = {"special": list(special)} if self._special != (END_OF_TEXT,) else {}
        self.identity = identity_of(kind="bpe", vocab=vocab, merges=merges, **named)

    def encode(self, text: str) -> list[int]:
        return [i for piece in pieces([well_formed(text)]) for i in self._tokenizer.encode(piece).ids]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        encodings = self._tokenizer.encode_batch_fast([well_formed(text) for text in texts])
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        return text_of(ids, self._table)

    def save(self, folder: Path) -> None:
        save_identity(self, folder)
        whole = imported_tokenizers().Tokenizer.from_str(self._tokenizer.to_str())
        whole.add_special_tokens(list(self._special))
        (folder / FILE_NAME).write_text(whole.to_str(), encoding="utf-8")
        names = {"eos_token": END_OF_TEXT, "bos_token": END_OF_TEXT}
        names |= {"pad_token": PAD} if PAD in self._special else {}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "clean_up_tokenization_spaces": False}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    @cached_property
    def _table(self) -> list[bytes]:
        byte_of = byte_of_letter()
        tokens = sorted(self._vocab, key=self._vocab.__getitem__)
        return [bytes(byte_of[letter] for letter in token) for token in tokens] + [t.encode() for t in self._special]


def train_bpe(texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
    """The byte-level BPE of `texts` with at most `vocab_size` ids, special tokens included.

    Where the texts repeat too little to learn that many, it has fewer. What iterating `texts` raises is passed on.
    """
    assert vocab_size >= 256 + len(SPECIAL_TOKENS), vocab_size
    tokenizers = imported_tokenizers()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        min_frequency=2,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer = _assembled({}, [])
    tokenizer.train_from_iterator((well_formed(piece) for piece in pieces_of_each(texts)), trainer)
    return _from_json(json.loads(tokenizer.to_str()), SPECIAL_TOKENS)


def pieces_of_each(texts: Iterable[str]) -> Iterable[str]:
    """The pieces of every text, one text after the other."""
    return (piece for text in texts for piece in pieces([text]))


def loaded_bpe(folder: Path) -> BpeTokenizer:
    """From a folder that `save` wrote. Raises DataError."""
    path = folder / FILE_NAME
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return _from_json(saved, _special_tokens(saved))
    except OSError as error:
        raise DataError(
            f"cannot read the tokenizer {shown(path)}", why=error.strerror or str(error), hint=SAVED_HINT
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{shown(path)} is not a tokenizer that was trained here",
            why=f"{type(error).__name__}: {error}",
            hint=SAVED_HINT,
        ) from error


def _special_tokens(saved: dict[str, Any]) -> tuple[str, ...]:
    added = sorted((int(token["id"]), str(token["content"])) for token in saved.get("added_tokens", []))
    if [i for i, _ in added] != [len(saved["model"]["vocab"]) + n for n in range(len(added))]:
        raise ValueError("the special tokens do not follow the vocabulary")
    names = tuple(name for _, name in added) or (END_OF_TEXT,)
    if END_OF_TEXT not in names:
        raise ValueError(f"there is no {END_OF_TEXT}")
    return names


def _from_json(saved: dict[str, Any], special: Sequence[str]) -> BpeTokenizer:
    vocab = {str(token): int(i) for token, i in saved["model"]["vocab"].items()}
    merges = [(str(left), str(right)) for left, right in saved["model"]["merges"]]
    letters = set(byte_of_letter())
    if sorted(vocab.values()) != list(range(len(vocab))) or not letters.issubset(vocab):
        raise ValueError("the ids are not 0, 1, 2, …, or a byte has none")
    if any(left + right not in vocab or left not in vocab or right not in vocab for left, right in merges):
        raise ValueError("a merge makes a token that is not in the vocabulary")
    if any(not letters.issuperset(token) for token in vocab):
        raise ValueError("a token is made of something else than bytes")
    return BpeTokenizer(vocab, merges, special)


def _assembled(vocab: dict[str, int], merges: Merges) -> Any:
    """A `tokenizers.Tokenizer` that is determined by the vocabulary and the merges alone."""
    tokenizers = imported_tokenizers()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def byte_of_letter() -> dict[str, int]:
    """GPT-2 writes bytes as letters: printable ones as themselves, the others from U+0100 on, in order."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(kept)]
    return {chr(byte): byte for byte in kept} | {chr(0x100 + n): byte for n, byte in enumerate(moved)}


def imported_tokenizers() -> Any:
    """The package. Raises DataError where it is missing."""
    try:
        import tokenizers  # late: the other tokenizers work on a host without it
    except ImportError as error:
        raise DataError(
            "the bpe tokenizer needs the package tokenizers", why=str(error), hint="`pip install tokenizers`"
        ) from error
    return tokenizers
