"""Text becomes ids and comes back, whatever the text, and a tokenizer is who it says it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.trainer.gpt2_bpe import gpt2_cache
from trainer.config import TokenizerConfig
from trainer.data.sources import corpus_path
from trainer.errors import DataError
from trainer.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, Tokenizer, load_tokenizer, open_tokenizer, pieces, train_bpe
from trainer.tokenizer.pieces import PIECE_CHARACTERS

SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"
EVERY_BYTE = "".join(map(chr, range(0x250))) + "日本語🙂\U0010ffff"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\t\r'\u3000\u00a0as<|endoftext|>"))


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    return train_bpe([corpus_path("sample").read_text(encoding="utf-8")], 600)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(gpt2_cache(tmp_path_factory.mktemp("tiktoken"))))
        return open_tokenizer(TokenizerConfig(kind="gpt2"))


@pytest.fixture(scope="session", params=["bytes", "gpt2", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "bytes":
        return open_tokenizer(TokenizerConfig(kind="bytes"))
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eot_id not in ids


def test_every_byte_comes_back_in_batches_too(tokenizer: Tokenizer) -> None:
    texts = [EVERY_BYTE, "", END_OF_TEXT, *"日本語🙂", EVERY_BYTE[::-1]]
    batch = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
    assert [tokenizer.decode(ids) for ids in batch] == texts


def test_text_that_spells_end_of_text_is_ordinary_text(tokenizer: Tokenizer) -> None:
    text = f"before{END_OF_TEXT}after"
    assert tokenizer.eot_id not in tokenizer.encode(text)
    assert tokenizer.eot_id not in tokenizer.encode_batch([text])[0].tolist()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([tokenizer.eot_id]) == END_OF_TEXT
    assert tokenizer.eot_id == tokenizer.vocab_size - 1


def test_a_lone_surrogate_and_an_unknown_id_become_the_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode_batch(["a\ud800b"])[0]) == "a\ufffdb"
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.vocab_size]) == "a\ufffd"


def test_a_cut_character_becomes_the_replacement_character() -> None:
    tokenizer = open_tokenizer(TokenizerConfig(kind="bytes"))
    assert tokenizer.decode([0xC3]) == "\ufffd"


@settings(max_examples=100, deadline=None)
@given(text=TEXTS, limit=st.integers(1, 40))
def test_pieces_join_to_the_text_and_do_not_depend_on_the_blocks(text: str, limit: int) -> None:
    whole = list(pieces([text], limit))
    assert "".join(whole) == text
    assert all(0 < len(piece) <= limit for piece in whole)
    assert list(pieces(text, limit)) == whole


@settings(max_examples=150, deadline=None)
@given(left=TEXTS, right=TEXTS, space=st.sampled_from(" \n"))
def test_a_cut_before_a_space_changes_no_id(tokenizer: Tokenizer, left: str, right: str, space: str) -> None:
    assume(left and not left[-1].isspace())
    right = space + right
    assert tokenizer.encode(left) + tokenizer.encode(right) == tokenizer.encode(left + right)


def test_a_long_text_is_cut_at_spaces_and_a_longer_word_is_cut_hard() -> None:
    assert [len(piece) for piece in pieces(["word " * 4], 12)] == [9, 11]
    assert list(pieces(["abcdef gh"], 4)) == ["abcd", "ef", " gh"]


def test_a_megabyte_of_white_space_is_no_stack_overflow(tokenizer: Tokenizer) -> None:
    text = " \n" * (4 * PIECE_CHARACTERS) + "end"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_saved_and_loaded_it_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "$(touch x) 'new\nline"
    tokenizer.save(folder)
    loaded = load_tokenizer(folder)
    assert (loaded.kind, loaded.vocab_size, loaded.eot_id) == (tokenizer.kind, tokenizer.vocab_size, tokenizer.eot_id)
    assert loaded.identity == tokenizer.identity
    assert loaded.encode(EVERY_BYTE) == tokenizer.encode(EVERY_BYTE)
    assert loaded.decode(loaded.encode(EVERY_BYTE)) == EVERY_BYTE


def test_gpt2_gives_the_published_ids(gpt2: Tokenizer) -> None:
    assert gpt2.encode("Hello, I'm a language model,") == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("é日本語🙂") == [2634, 33768, 98, 17312, 105, 45739, 252, 8582, 25081]
    assert (gpt2.vocab_size, gpt2.eot_id) == (50257, 50256)


def test_gpt2_counts_the_published_tokens_of_tinyshakespeare(gpt2: Tokenizer) -> None:
    if not SHAKESPEARE.exists():
        pytest.skip(f"{SHAKESPEARE} is not there")
    text = SHAKESPEARE.read_text(encoding="utf-8")
    parts = text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :]
    counts = [sum(map(len, gpt2.encode_batch(list(pieces([part]))))) for part in parts]
    assert counts == [301_966, 36_059]


def test_gpt2_that_cannot_be_downloaded_says_what_to_do(tmp_path: Path) -> None:
    program = """if True:
        from trainer.config import TokenizerConfig
        from trainer.errors import DataError
        from trainer.tokenizer import open_tokenizer
        try:
            open_tokenizer(TokenizerConfig(kind="gpt2"))
        except DataError as error:
            print(error)
    """
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    env = {**os.environ, **nowhere, "TIKTOKEN_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("error: could not get the gpt2 tokenizer\nwhy:   ")
    assert "TIKTOKEN_CACHE_DIR" in done.stdout.splitlines()[2]
    assert done.stderr == ""


def test_bpe_training_is_deterministic_across_processes_and_threads(bpe: Tokenizer) -> None:
    program = """if True:
        from trainer.data.sources import corpus_path
        from trainer.tokenizer import train_bpe
        print(train_bpe([corpus_path("sample").read_text(encoding="utf-8")], 600).identity)
    """
    env = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == bpe.identity


def test_bpe_learns_as_many_merges_as_asked_or_as_the_text_gives(bpe: Tokenizer) -> None:
    assert bpe.vocab_size == 600
    assert len(bpe.encode(" the the")) == 2
    assert train_bpe(["abc"], 600).vocab_size == 256 + len(SPECIAL_TOKENS)
    assert train_bpe(["abc"], 266).decode([0x41 - 0x21]) == "A"


def test_bpe_training_passes_on_what_reading_the_corpus_raises() -> None:
    def broken() -> Iterator[str]:
        yield "abc"
        raise DataError("line 2: not JSON")

    with pytest.raises(DataError, match="line 2"):
        train_bpe(broken(), 300)


def test_different_tokenizers_have_different_identities(bpe: Tokenizer, gpt2: Tokenizer) -> None:
    others = [open_tokenizer(TokenizerConfig(kind="bytes")), gpt2, train_bpe(["aaaa bbbb"] * 9, 300)]
    assert len({tokenizer.identity for tokenizer in [bpe, *others]}) == 4


def test_a_bpe_that_is_not_trained_yet_is_refused() -> None:
    with pytest.raises(DataError, match="no trained bpe") as caught:
        open_tokenizer(TokenizerConfig(kind="bpe"))
    assert "python -m trainer prepare" in caught.value.hint


def test_a_folder_with_another_kind_is_refused(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    assert open_tokenizer(TokenizerConfig(kind="bpe", vocab_size=600), tmp_path).identity == bpe.identity
    for config in (TokenizerConfig(kind="bytes"), TokenizerConfig(kind="bpe", vocab_size=500)):
        with pytest.raises(DataError, match="not the one asked for") as caught:
            open_tokenizer(config, tmp_path)
        assert "kind=bpe" in caught.value.hint


def _swap_merges(path: Path) -> None:
    saved = json.loads(path.read_text(encoding="utf-8"))
    merges = saved["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    path.write_text(json.dumps(saved), encoding="utf-8")


def _forget_a_byte(path: Path) -> None:
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["model"]["vocab"] = {"a": 0}
    path.write_text(json.dumps(saved), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_swap_merges, "not the one that was saved"),
        (_forget_a_byte, "is not a tokenizer"),
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "is not a tokenizer"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is not a tokenizer"),
        (lambda path: path.unlink(), "cannot read"),
        (lambda path: path.with_name("identity.json").write_text("{}"), "is damaged"),
        (lambda path: path.with_name("identity.json").unlink(), "there is no tokenizer"),
        (lambda path: path.with_name("identity.json").write_text('{"kind": "x", "sha256": ""}'), "unknown tokenizer"),
    ],
)
def test_a_tokenizer_that_was_changed_is_refused(
    bpe: Tokenizer, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    bpe.save(tmp_path)
    damage(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.why
    assert "python -m trainer prepare" in caught.value.hint


def test_gpt2_merges_that_were_changed_are_refused(gpt2: Tokenizer, tmp_path: Path) -> None:
    gpt2.save(tmp_path)
    path = tmp_path / "gpt2.tiktoken"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="does not hold GPT-2's merges"):
        load_tokenizer(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(DataError, match="there is no tokenizer"):
        load_tokenizer(tmp_path)


def test_ids_have_room_for_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert all(np.iinfo(ids.dtype).max >= max(ids.tolist()) for ids in tokenizer.encode_batch([EVERY_BYTE]))
