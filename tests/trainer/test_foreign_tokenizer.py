"""Tokenizers of other programs: what they keep of a text, and what is refused because they lose it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.foreign import write_folder
from trainer.errors import DataError
from trainer.tokenizer.bpe import byte_of_letter
from trainer.tokenizer.foreign import loaded_foreign

LETTER_OF = {byte: letter for letter, byte in byte_of_letter().items()}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("policy") / "policy")


def changed(folder: Path, out: Path, change: Change) -> Path:
    """Its tokenizer with something done to it."""
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(saved)
    (out / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")
    (out / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return out


def without_token(byte: int) -> Change:
    """Its id goes to a pair of letters that no merge makes."""

    def change(saved: dict[str, Any]) -> None:
        vocab = saved["model"]["vocab"]
        vocab["!!"] = vocab.pop(LETTER_OF[byte])

    return change


def replacing(text: str, content: str = "") -> Change:
    normalizer = {"type": "Replace", "pattern": {"String": text}, "content": content}
    return lambda saved: saved.update(normalizer=normalizer)


def test_one_with_every_byte_leaves_nothing_out(folder: Path) -> None:
    tokenizer = loaded_foreign(folder)
    assert tokenizer.left_out == ""
    assert tokenizer.decode(tokenizer.encode("a\x04b\x1d")) == "a\x04b\x1d"


def test_a_control_character_without_a_token_is_left_out_and_no_other(folder: Path, tmp_path: Path) -> None:
    tokenizer = loaded_foreign(changed(folder, tmp_path, without_token(0x04)))
    assert tokenizer.left_out == "\x04"
    assert tokenizer.decode(tokenizer.encode("a\x04b\x06")) == "ab\x06"


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (without_token(ord("\t")), r"'\\t'"),
        (without_token(ord("b")), "'b'"),
        (replacing("\x04"), r"'\\x04'"),  # it has the token, and drops the character all the same
        (replacing("A", "a"), "'A'"),
    ],
)
def test_one_that_loses_text_is_refused_with_what_it_loses(
    folder: Path, tmp_path: Path, change: Change, lost: str
) -> None:
    with pytest.raises(DataError) as caught:
        loaded_foreign(changed(folder, tmp_path, change))
    assert f"it loses text: {lost}".replace("\\\\", "\\") in caught.value.why
