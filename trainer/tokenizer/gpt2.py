"""GPT-2's own tokenizer, run by tiktoken.

tiktoken downloads two files at first use. A saved folder carries the merges, so
a host that gets shards or a checkpoint needs no download.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from trainer.errors import DataError
from trainer.quoting import shown
from trainer.tokenizer.base import END_OF_TEXT, SAVED_HINT, Ids, identity_of, save_identity, text_of, well_formed
from trainer.tokenizer.pieces import pieces

if TYPE_CHECKING:
    import tiktoken

FILE_NAME = "gpt2.tiktoken"
RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
"""Of the file as OpenAI publishes it under the name r50k_base.tiktoken; tiktoken pins the same hash."""
VOCAB_SIZE = 50257

# Radford et al. 2019, the pattern of the release, in tiktoken's possessive spelling: the same matches, faster.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class Gpt2Tokenizer:
    """50,256 byte pairs and end-of-text."""

    kind = "gpt2"
    vocab_size = VOCAB_SIZE
    eot_id = VOCAB_SIZE - 1
    special_ids: ClassVar[Mapping[str, int]] = {END_OF_TEXT: eot_id}
    identity = identity_of(kind="gpt2", ranks=RANKS_SHA256, vocab_size=VOCAB_SIZE)

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding

    def encode(self, text: str) -> list[int]:
        return [i for piece in pieces([well_formed(text)]) for i in self._encoding.encode_ordinary(piece)]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        threads = os.cpu_count() or 1
        size = len(texts) // (4 * threads) + 1  # many short texts one by one would spend their time handing over
        groups = [texts[i : i + size] for i in range(0, len(texts), size)]
        with ThreadPoolExecutor(threads) as pool:  # tiktoken lets go of the interpreter while it works
            return [ids for group in pool.map(self._ids_of_each, groups) for ids in group]

    def decode(self, ids: Iterable[int]) -> str:
        return text_of(ids, self._table)

    def save(self, folder: Path) -> None:
        save_identity(self, folder)
        ranks = enumerate(self._table[: self.eot_id])
        data = b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in ranks)
        assert hashlib.sha256(data).hexdigest() == RANKS_SHA256, "tiktoken gave other merges than GPT-2's"
        (folder / FILE_NAME).write_bytes(data)

    def _ids_of_each(self, texts: Sequence[str]) -> list[Ids]:
        # disallowed_special=() makes `<|endoftext|>` ordinary text; without it tiktoken raises.
        return [self._encoding.encode_to_numpy(well_formed(text), disallowed_special=()) for text in texts]

    @cached_property
    def _table(self) -> list[bytes]:
        return [self._encoding.decode_single_token_bytes(i) for i in range(VOCAB_SIZE)]


def downloaded_gpt2() -> Gpt2Tokenizer:
    """From tiktoken's cache, or from the network where that is empty. Raises DataError."""
    tiktoken = _tiktoken()
    try:
        return Gpt2Tokenizer(tiktoken.get_encoding("gpt2"))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            "could not get the gpt2 tokenizer",
            why=f"tiktoken downloads its files at first use, and that failed: {reason}",
            hint="where there is a network: `TIKTOKEN_CACHE_DIR=gpt2-files python3 -c "
            "'import tiktoken; tiktoken.get_encoding(\"gpt2\")'`; copy `gpt2-files` here and set TIKTOKEN_CACHE_DIR "
            "to it; or use a tokenizer that needs no download: `data.tokenizer.kind=bpe`",
        ) from error


def loaded_gpt2(folder: Path) -> Gpt2Tokenizer:
    """From a folder that `save` wrote. Raises DataError where the merges are not GPT-2's."""
    path = folder / FILE_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read the tokenizer {shown(path)}", why=error.strerror or str(error), hint=SAVED_HINT
        ) from error
    if hashlib.sha256(data).hexdigest() != RANKS_SHA256:
        raise DataError(
            f"{shown(path)} does not hold GPT-2's merges",
            why="its sha256 differs from the published one",
            hint=SAVED_HINT,
        )
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in data.splitlines())}
    encoding = _tiktoken().Encoding(
        "gpt2",
        pat_str=_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: VOCAB_SIZE - 1},
        explicit_n_vocab=VOCAB_SIZE,
    )
    return Gpt2Tokenizer(encoding)


def _tiktoken() -> ModuleType:
    try:
        import tiktoken  # late: the other tokenizers work on a host without it
    except ImportError as error:
        raise DataError(
            "the gpt2 tokenizer needs the package tiktoken", why=str(error), hint="`pip install tiktoken`"
        ) from error
    return tiktoken
