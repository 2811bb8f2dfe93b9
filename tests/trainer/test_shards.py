"""Shards say what they are, and everything that does not belong together is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer.config import DataConfig, TokenizerConfig
from trainer.data import ShardSet, open_shards, prepare
from trainer.data.shard_file import HEADER_BYTES, Header, mapped_tokens, read_header, write_shard
from trainer.errors import DataError
from trainer.tokenizer import open_tokenizer, train_bpe

BYTES = TokenizerConfig(kind="bytes")


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    """Three shards: 10, 10 and 7 tokens."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("first text")
    (tmp_path / "corpus" / "b.txt").write_text("the second text")
    config = DataConfig(path=str(tmp_path / "corpus"), tokenizer=BYTES, val_fraction=0.2)
    return prepare(config, tmp_path / "out", shard_tokens=10)


def shard(shards: ShardSet, number: int) -> Path:
    return shards.root / shards.index.folder / f"tokens_{number:05d}.bin"


def test_the_layout_of_a_shard_is_what_is_documented(shards: ShardSet) -> None:
    data = shard(shards, 1).read_bytes()
    magic, version, itemsize, vocab_size, eot_id, tokens, documents = struct.unpack_from("<8sIIIIQQ", data)
    assert (magic, version, itemsize, vocab_size, eot_id) == (b"GPTOPSTK", 1, 2, 257, 256)
    assert (tokens, documents) == (10, 1)
    assert data[40:72].hex() == open_tokenizer(BYTES).identity
    assert data[72:HEADER_BYTES] == bytes(HEADER_BYTES - 72)
    assert np.frombuffer(data[HEADER_BYTES:], "<u2").tolist() == [256, *b"the secon"]


def test_documents_end_with_end_of_text_and_the_split_is_at_the_end(shards: ShardSet) -> None:
    assert (shards.documents, shards.tokens, shards.index.shards) == (2, 27, (10, 10, 7))
    assert (shards.train_tokens, shards.val_tokens) == (22, 5)
    stream = np.empty(27, np.int64)
    shards.copy_into(stream, 0)
    assert stream.tolist() == [*b"first text", 256, *b"the second text", 256]


@pytest.mark.parametrize("start", range(27))
def test_any_stretch_of_the_stream_is_read_across_shards(shards: ShardSet, start: int) -> None:
    whole = [*b"first text", 256, *b"the second text", 256]
    for length in range(1, 28 - start):
        out = np.empty(length, np.int64)
        shards.copy_into(out, start)
        assert out.tolist() == whole[start : start + length]


@pytest.mark.parametrize(("vocab_size", "bytes_per_id"), [(257, 2), (1 << 16, 2), ((1 << 16) + 1, 4), (1 << 20, 4)])
def test_ids_are_as_wide_as_the_vocabulary_needs(tmp_path: Path, vocab_size: int, bytes_per_id: int) -> None:
    ids = np.array([0, 1, vocab_size - 1])
    header = Header(vocab_size, vocab_size - 1, "ab" * 32, tokens=3, documents=1)
    write_shard(tmp_path / "x.bin", header, ids)
    assert (tmp_path / "x.bin").stat().st_size == HEADER_BYTES + 3 * bytes_per_id
    assert read_header(tmp_path / "x.bin") == header
    assert mapped_tokens(tmp_path / "x.bin", header).tolist() == ids.tolist()


def test_shards_of_another_tokenizer_are_refused(shards: ShardSet) -> None:
    assert open_shards(shards.root, open_tokenizer(BYTES)).identity == shards.identity
    other = train_bpe(["abab"], 300)
    with pytest.raises(DataError, match="made with another tokenizer") as caught:
        open_shards(shards.root, other)
    assert shards.tokenizer_identity[:12] in caught.value.why
    assert other.identity[:12] in caught.value.why
    assert "python -m trainer prepare" in caught.value.hint


def test_a_model_with_too_few_embeddings_is_refused(shards: ShardSet) -> None:
    shards.require_vocabulary(257)
    shards.require_vocabulary(320)
    with pytest.raises(DataError, match="do not fit the model") as caught:
        shards.require_vocabulary(256)
    assert caught.value.hint.startswith("`model.vocab_size=257`")


def _patched(offset: int, data: bytes) -> Callable[[Path], object]:
    def patch(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[offset : offset + len(data)] = data
        path.write_bytes(content)

    return patch


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "it is truncated: 275 bytes, 276 were written"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "it is truncated: 100 bytes"),
        (lambda path: path.write_bytes(b""), "it does not begin like a shard"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "it is longer than it should be"),
        (lambda path: path.unlink(), "it cannot be read: No such file"),
        (_patched(0, b"GPTOPSXX"), "it does not begin like a shard"),
        (_patched(8, b"\x02"), "it has format 2, this version reads 1"),
        (_patched(12, b"\x04"), "its header contradicts itself"),
        (_patched(16, struct.pack("<I", 300)), "it has a vocabulary of 300, not 257"),
        (_patched(20, struct.pack("<I", 257)), "its header contradicts itself"),
        (_patched(40, b"\0\0\0\0\0\0\0\0"), "it is of another tokenizer: 00000000"),
    ],
)
def test_a_damaged_shard_is_refused(shards: ShardSet, damage: Callable[[Path], object], why: str) -> None:
    damage(shard(shards, 1))
    with pytest.raises(DataError, match=r"the shard .* (cannot be used|does not belong here)") as caught:
        open_shards(shards.root)
    assert "tokens_00001.bin" in caught.value.what
    assert caught.value.why.startswith(why)
    assert "python -m trainer prepare" in caught.value.hint


def test_a_shard_of_another_corpus_is_refused(shards: ShardSet) -> None:
    shard(shards, 1).write_bytes(shard(shards, 2).read_bytes())
    with pytest.raises(DataError, match="does not belong here") as caught:
        open_shards(shards.root)
    assert caught.value.why == "it has 7 tokens, not 10"


def test_a_folder_without_an_index_holds_nothing(shards: ShardSet) -> None:
    (shards.root / "index.json").unlink()
    with pytest.raises(DataError, match="no prepared shards"):
        open_shards(shards.root)


@pytest.mark.parametrize(
    "change",
    [
        {"folder": "../../etc"},
        {"folder": 3},
        {"format": "gptops-shards-9"},
        {"tokens": 28},
        {"train_tokens": 0},
        {"shards": 3},
        {"shards": [27, 0]},
        {"surprise": 1},
    ],
)
def test_a_damaged_index_is_refused(shards: ShardSet, change: dict[str, object]) -> None:
    path = shards.root / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=r"index\.json` is damaged"):
        open_shards(shards.root)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\udcff"])
def test_an_index_that_is_no_index_is_refused(shards: ShardSet, text: str) -> None:
    (shards.root / "index.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"index\.json` is damaged"):
        open_shards(shards.root)


def test_the_tokenizer_travels_with_the_shards(shards: ShardSet) -> None:
    assert shards.load_tokenizer().identity == shards.tokenizer_identity
    assert shards.tokenizer_kind == "bytes"
