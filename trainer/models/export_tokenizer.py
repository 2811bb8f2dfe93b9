"""A tokenizer as the files that transformers' AutoTokenizer reads, giving the same ids."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

from trainer.tokenizer import END_OF_TEXT, Tokenizer
from trainer.tokenizer.bpe import CONFIG_FILE, FILE_NAME, byte_of_letter, imported_tokenizers


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into `folder`, which must exist."""
    if tokenizer.kind in ("bpe", "folder"):
        _copy_saved(tokenizer, folder)
    else:
        _write_byte_level(tokenizer, folder)


def _copy_saved(tokenizer: Tokenizer, folder: Path) -> None:
    """These are saved in that form anyway."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer.save(Path(name))
        for file in (FILE_NAME, CONFIG_FILE):
            (folder / file).write_bytes((Path(name) / file).read_bytes())


def _write_byte_level(tokenizer: Tokenizer, folder: Path) -> None:
    letters = {byte: letter for letter, byte in byte_of_letter().items()}

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    tokens = _bytes_of_ids(tokenizer)
    vocab = {spelled(token): i for i, token in enumerate(tokens)}
    merges = [(spelled(left), spelled(right)) for left, right in merges_of(tokens)]
    tokenizers = imported_tokenizers()
    whole = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    # GPT-2's pattern decides what may merge; where nothing merges there is nothing to decide.
    whole.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=bool(merges))
    whole.decoder = tokenizers.decoders.ByteLevel()
    whole.add_special_tokens([END_OF_TEXT])
    (folder / FILE_NAME).write_text(whole.to_str(), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _bytes_of_ids(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every ordinary id, which come before the special one."""
    if tokenizer.kind == "bytes":
        return [bytes([byte]) for byte in range(256)]
    import tiktoken  # the tokenizer at hand is one of tiktoken's

    encoding: tiktoken.Encoding = tokenizer._encoding  # type: ignore[attr-defined]
    return [encoding.decode_single_token_bytes(i) for i in range(tokenizer.eot_id)]


def merges_of(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The pair each token was merged from, in their order: what merging by the lower ids alone makes of its bytes."""
    rank_of = {token: rank for rank, token in enumerate(tokens)}
    return [_last_pair(token, rank_of) for token in tokens if len(token) > 1]


def _last_pair(token: bytes, rank_of: dict[bytes, int]) -> tuple[bytes, bytes]:
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        ranks = [rank_of.get(left + right, len(rank_of)) for left, right in itertools.pairwise(parts)]
        at = ranks.index(min(ranks))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]
