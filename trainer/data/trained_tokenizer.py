"""A BPE trained on the sources of a configuration, in a folder of its own, once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from trainer.config import DataConfig
from trainer.data.bpe_corpus import trained_bpe
from trainer.data.opening import open_source
from trainer.data.progress import Progress, Report, silently
from trainer.data.writing import locked
from trainer.errors import DataError
from trainer.quoting import shown
from trainer.tokenizer import Tokenizer, load_tokenizer, save_whole

TRAINED_ON = "trained_on.json"
"""Beside the tokenizer: which input it was made from."""


def train_tokenizer(config: DataConfig, folder: Path, report: Report = silently) -> Tokenizer:
    """The BPE of `config.tokenizer.vocab_size` ids, trained on the sources of `config` and saved in `folder`.

    Where `folder` has the one of the same sources already, nothing is done. Several processes may call this at once.
    Raises DataError; then `folder` is what it was before.
    """
    fingerprint = _fingerprint(config)
    found = _finished(folder, fingerprint)
    if found is not None:
        return found
    _require_ours(folder)
    with locked(folder.parent, lambda: report(Progress("waiting"))):
        found = _finished(folder, fingerprint)
        if found is None:
            found = trained_bpe(config, report)
            notes = {TRAINED_ON: json.dumps({"fingerprint": fingerprint}) + "\n"}
            save_whole(found, folder, notes)
    return found


def _fingerprint(config: DataConfig) -> str:
    sources = [[weight, open_source(part).stamp()] for weight, part in config.parts().values()]
    text = json.dumps([config.tokenizer.vocab_size, config.max_samples, config.max_tokens, sources], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _finished(folder: Path, fingerprint: str) -> Tokenizer | None:
    try:
        saved = json.loads((folder / TRAINED_ON).read_text(encoding="utf-8"))
        return load_tokenizer(folder) if saved["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError, DataError):  # made anew: its sources are here
        return None


def _require_ours(folder: Path) -> None:
    """Never overwrite a folder that is not a tokenizer we trained."""
    if folder.exists() and not (folder / TRAINED_ON).exists():
        raise DataError(
            f"the folder {shown(folder)} is there already, and holds no tokenizer that was trained here",
            why=f"it has no {TRAINED_ON}, so it would be overwritten",
            hint="give another one: `--out DIR`",
        )
