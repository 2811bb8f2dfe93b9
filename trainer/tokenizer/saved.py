"""A tokenizer as a folder: `identity.json` says which one it is, the files beside it make it.

What is loaded is checked against the identity that was saved, so a tokenizer
that was edited or mixed up is refused before it turns text into wrong ids.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from trainer.config import TokenizerConfig
from trainer.errors import DataError
from trainer.manifest import fsync
from trainer.quoting import pasteable, shown
from trainer.tokenizer.base import IDENTITY_FILE, SAVED_HINT, Tokenizer
from trainer.tokenizer.bpe import FILE_NAME, loaded_bpe
from trainer.tokenizer.foreign import loaded_foreign
from trainer.tokenizer.gpt2 import downloaded_gpt2, loaded_gpt2
from trainer.tokenizer.raw_bytes import BytesTokenizer


def open_tokenizer(config: TokenizerConfig, folder: Path | None = None) -> Tokenizer:
    """The tokenizer `config` asks for: from `folder` if given, else made anew. Raises DataError."""
    if folder is not None:
        tokenizer = load_tokenizer(folder)
        _require_asked_for(tokenizer, config, folder)
        return tokenizer
    if config.kind == "bytes":
        return BytesTokenizer()
    if config.kind == "gpt2":
        return downloaded_gpt2()
    if config.kind == "folder":
        return _of_folder(config)
    raise DataError(
        "there is no trained bpe tokenizer yet",
        why="it is trained when the corpus is prepared",
        hint="`python -m trainer prepare data.tokenizer.kind=bpe`",
    )


def _of_folder(config: TokenizerConfig) -> Tokenizer:
    """The one in `data.tokenizer.path`: saved by us, there or below `tokenizer/`, or by another program."""
    root = Path(config.path).expanduser()
    saved = next((folder for folder in (root, root / "tokenizer") if (folder / IDENTITY_FILE).exists()), None)
    foreign = saved is None and (root / FILE_NAME).exists()
    tokenizer: Tokenizer = loaded_foreign(root) if foreign else load_tokenizer(saved or root)
    if tokenizer.vocab_size > config.vocab_size:
        raise DataError(
            f"the tokenizer in {shown(root)} is not the one asked for",
            why=f"it has {tokenizer.vocab_size} tokens, data.tokenizer.vocab_size says {config.vocab_size}",
            hint=f"`data.tokenizer.vocab_size={tokenizer.vocab_size}`, or leave it out",
        )
    return tokenizer


def _require_asked_for(tokenizer: Tokenizer, config: TokenizerConfig, folder: Path) -> None:
    """Raises DataError where the tokenizer of `folder` is another one than `config` names."""
    if config.kind == "folder":
        wanted = _of_folder(config)
        if wanted.identity == tokenizer.identity:
            return
        asked = f"{shown(config.path)} holds `{wanted.kind}` {wanted.identity[:12]}"
    elif tokenizer.kind == config.kind and tokenizer.vocab_size <= config.vocab_size:
        return
    else:
        asked = f"data.tokenizer says `{config.kind}` with {config.vocab_size}"
    named = f"`{tokenizer.kind}` with {tokenizer.vocab_size} tokens ({tokenizer.identity[:12]})"
    size = f" and `data.tokenizer.vocab_size={tokenizer.vocab_size}`" if tokenizer.kind == "bpe" else ""
    kind = f"`data.tokenizer.kind={tokenizer.kind}`{size}"
    raise DataError(
        f"the tokenizer in {shown(folder)} is not the one asked for",
        why=f"it is {named}, {asked}",
        hint=f"`data.tokenizer.path={pasteable(folder)}`" if tokenizer.kind == "folder" else kind,
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer a folder holds. Raises DataError where it is missing or not what was saved."""
    path = folder / IDENTITY_FILE
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        kind, identity = str(saved["kind"]), str(saved["sha256"])
    except OSError as error:
        raise DataError(
            f"there is no tokenizer in {shown(folder)}", why=f"{IDENTITY_FILE}: {error.strerror}", hint=SAVED_HINT
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{shown(path)} is damaged", why=f"{type(error).__name__}: {error}", hint=SAVED_HINT) from error
    if kind not in _LOADERS:
        raise DataError(
            f"{shown(path)} names the unknown tokenizer `{kind}`",
            why=f"this version knows {', '.join(_LOADERS)}",
            hint=SAVED_HINT,
        )
    tokenizer = _LOADERS[kind](folder)
    if tokenizer.identity != identity:
        raise DataError(
            f"the tokenizer in {shown(folder)} is not the one that was saved there",
            why=f"its identity is {tokenizer.identity[:12]}, {identity[:12]} was saved",
            hint=SAVED_HINT,
        )
    return tokenizer


def save_whole(tokenizer: Tokenizer, folder: Path, notes: Mapping[str, str] | None = None) -> None:
    """Save it so that `folder` is whole or not there, whatever happens meanwhile. `notes` are files beside it."""
    building = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    tokenizer.save(building)
    for name, text in (notes or {}).items():
        (building / name).write_text(text, encoding="utf-8")
    for path in [*sorted(building.iterdir()), building]:
        fsync(path)
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    fsync(folder.parent)


_LOADERS: dict[str, Callable[[Path], Tokenizer]] = {
    "bytes": lambda _: BytesTokenizer(),
    "gpt2": loaded_gpt2,
    "bpe": loaded_bpe,
    "folder": loaded_foreign,
}
