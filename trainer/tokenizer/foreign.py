"""A tokenizer of another program: a folder with a tokenizer.json whose text is made of bytes, as GPT-2's is.

SmolLM2, Llama 3, Qwen and most since are of that kind. One that would lose text
(lower case only, no line breaks, an unknown token) is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import DataError
from trainer.quoting import shown
from trainer.tokenizer.base import SAVED_HINT, Ids, identity_of, save_identity, text_of, well_formed
from trainer.tokenizer.bpe import CONFIG_FILE, FILE_NAME, byte_of_letter, imported_tokenizers
from trainer.tokenizer.pieces import pieces
from trainer.tokenizer.special import END_OF_TEXT

_CHAT_TEMPLATE = "chat_template.jinja"

_PROBE = "".join(map(chr, range(0x250))) + " Ab\r\n\n\tcd  日本語🙂\U0010ffff"
"""Every byte, and what the tokenizers that lose text lose."""

_MAY_BE_LOST = frozenset(range(0x20)) - frozenset(b"\t\n\r")
"""Control characters that no text has. A vocabulary may have no token for them, as SmolLM2's has none for six; they are
then left out of a text, and nothing that knows only this vocabulary could keep them."""

_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")
"""How others call the end of a text, where their folder does not say."""


class ForeignTokenizer:
    """What a tokenizer.json says, run by `tokenizers`, without the tokens it would put around a text."""

    kind = "folder"

    def __init__(self, tokenizer: Any, saved: str, config: str, eot: str) -> None:
        self._tokenizer, self._saved, self._config = tokenizer, saved, config
        tokenizer.encode_special_tokens = True  # text that spells a special token is text
        tokenizer.no_truncation()
        tokenizer.no_padding()
        added = {int(i): token for i, token in tokenizer.get_added_tokens_decoder().items()}
        self.special_ids: Mapping[str, int] = {token.content: i for i, token in sorted(added.items()) if token.special}
        self.eot_id: int = self.special_ids[eot]
        self.vocab_size: int = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        canonical = json.dumps(json.loads(saved), sort_keys=True)
        self.chat_template = ""
        """Of transformers, where the folder has one."""
        self.identity = identity_of(kind="folder", eot=eot, sha256=hashlib.sha256(canonical.encode()).hexdigest())

    def encode(self, text: str) -> list[int]:
        parts = pieces([well_formed(text)])
        return [i for piece in parts for i in self._tokenizer.encode(piece, add_special_tokens=False).ids]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        encodings = self._tokenizer.encode_batch_fast([well_formed(text) for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        return text_of(ids, self._table)

    def save(self, folder: Path) -> None:
        save_identity(self, folder)
        (folder / FILE_NAME).write_text(self._saved, encoding="utf-8")
        (folder / CONFIG_FILE).write_text(self._config, encoding="utf-8")
        if self.chat_template:
            (folder / _CHAT_TEMPLATE).write_text(self.chat_template, encoding="utf-8")

    @property
    def left_out(self) -> str:
        """The characters that its ids cannot say: control characters without a token."""
        has = self._tokenizer.get_vocab(with_added_tokens=True).keys()
        known = {byte for letter, byte in byte_of_letter().items() if letter in has}
        return "".join(chr(byte) for byte in sorted(_MAY_BE_LOST - known))

    @cached_property
    def _table(self) -> list[bytes]:
        byte_of, table = byte_of_letter(), ["\ufffd".encode()] * self.vocab_size
        added = {int(i): token.content for i, token in self._tokenizer.get_added_tokens_decoder().items()}
        for token, i in self._tokenizer.get_vocab(with_added_tokens=True).items():
            table[i] = added[i].encode() if i in added else bytes(byte_of.get(letter, 0x3F) for letter in token)
        return table


def loaded_foreign(folder: Path) -> ForeignTokenizer:
    """From a folder with a tokenizer.json. Raises DataError where its text would not come back."""
    path = folder / FILE_NAME
    try:
        saved = path.read_text(encoding="utf-8")
        settings = (folder / CONFIG_FILE).read_text(encoding="utf-8") if (folder / CONFIG_FILE).exists() else "{}"
        tokenizer = imported_tokenizers().Tokenizer.from_str(saved)
        eot = _end_of_text(json.loads(settings), tokenizer)
        template = _template(folder, json.loads(settings))
    except OSError as error:
        raise DataError(
            f"cannot read the tokenizer {shown(path)}", why=error.strerror or str(error), hint=SAVED_HINT
        ) from error
    except DataError:
        raise
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise _unusable(path, (str(error).splitlines() or [type(error).__name__])[0]) from error
    if eot is None:
        raise _unusable(path, "it has no special token that ends a text")
    found = ForeignTokenizer(tokenizer, saved, settings, eot)
    came, wanted = found.decode(found.encode(_PROBE)), _PROBE.translate(dict.fromkeys(map(ord, found.left_out)))
    if came != wanted:
        lost = next((a for a, b in zip(wanted, came, strict=False) if a != b), wanted[len(came) :][:1])
        raise _unusable(path, f"it loses text: {lost!r} does not come back from its ids")
    found.chat_template = template
    return found


def _template(folder: Path, settings: dict[str, Any]) -> str:
    """A file of its own, or a text in tokenizer_config.json; one of several under names is not chosen here."""
    path = folder / _CHAT_TEMPLATE
    if path.exists():
        return path.read_text(encoding="utf-8")
    told = settings.get("chat_template")
    return told if isinstance(told, str) else ""


def _end_of_text(settings: dict[str, Any], tokenizer: Any) -> str | None:
    named = settings.get("eos_token")
    named = named.get("content") if isinstance(named, dict) else named
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    return next((name for name in (named, *_ENDS) if name in special), None)


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        f"{shown(path)} is not a tokenizer that can be used here",
        why=why,
        hint="one over bytes is needed, as GPT-2's: train one with `python -m trainer tokenizer --vocab-size 32000`",
    )
