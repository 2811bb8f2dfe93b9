"""A tokenizer is trained on text, keeps the tokens of chats and tools to itself, and travels as a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from trainer.cli import main
from trainer.config import ConfigError, DataConfig, RunConfig, TokenizerConfig, run_config
from trainer.data import open_shards, prepare, train_tokenizer
from trainer.data.sources import corpus_path
from trainer.errors import DataError, ExitCode
from trainer.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, Tokenizer, load_tokenizer, open_tokenizer, train_bpe
from trainer.tokenizer.bpe import BpeTokenizer
from trainer.tokenizer.foreign import loaded_foreign

TEXT = corpus_path("sample").read_text(encoding="utf-8")[:20_000] + " 12 and 34"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of another program: byte-level, digits apart, its own special tokens first, a BOS put before."""
    made = _another_program()
    folder = tmp_path_factory.mktemp("foreign")
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|im_end|>"}}')
    return folder


def _another_program() -> Any:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    before = tokenizers.pre_tokenizers
    made.pre_tokenizer = before.Sequence([before.Digits(individual_digits=True), before.ByteLevel(False)])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|begin|>", "<|im_end|>"],
        initial_alphabet=before.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing("<|begin|> $A", None, [("<|begin|>", 0)])
    return made


def settings_of(folder: Path, **tokenizer: Any) -> RunConfig:
    return run_config({"data": {"tokenizer": {"path": str(folder), **tokenizer}}}, source="test")


def trained(corpus: Path, folder: Path, size: int = 300) -> Tokenizer:
    config = DataConfig(path=str(corpus), tokenizer=TokenizerConfig(kind="bpe", vocab_size=size))
    return train_tokenizer(config, folder)


def test_the_command_trains_saves_and_says_what_comes_next(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a tokenizer"
    command = ["tokenizer", "--vocab-size", "300", "--data", str(corpus), "--out", str(folder)]
    assert main(command) == ExitCode.OK
    said = capsys.readouterr().out
    assert "300 tokens, 10 of them special: <|pad|> <|system|>" in said
    assert f"next: python -m trainer prepare data.tokenizer.path='{folder}'" in said
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(command) == ExitCode.OK
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before, "the second time does nothing"
    prepared = ["prepare", "--out", str(tmp_path / "out"), f"data.path={corpus}", f"data.tokenizer.path='{folder}'"]
    assert main(prepared) == ExitCode.OK
    assert f"data.tokenizer.path='{folder}'" in capsys.readouterr().out
    assert open_shards(tmp_path / "out").tokenizer_identity == load_tokenizer(folder).identity


@pytest.mark.parametrize("words", [["--vocab-size", "20"], ["--vocab-size", "260"], ["--data", "hf:nobody"]])
def test_a_command_that_cannot_be_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", *words]) == ExitCode.CONFIG
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_that_is_something_else_is_never_overwritten(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds no tokenizer that was trained here"):
        trained(corpus, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_another_text_or_size_trains_anew(corpus: Path, tmp_path: Path) -> None:
    first = trained(corpus, tmp_path / "t")
    assert trained(corpus, tmp_path / "t").identity == first.identity
    assert trained(corpus, tmp_path / "t", 290).vocab_size == 290
    corpus.write_text("a text of quite another kind " * 50)
    assert trained(corpus, tmp_path / "t").identity != first.identity
    assert not (tmp_path / "t.tmp").exists()


def test_a_training_that_fails_leaves_the_tokenizer_as_it_was(corpus: Path, tmp_path: Path) -> None:
    first = trained(corpus, tmp_path / "t")
    corpus.write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match="not UTF-8"):
        trained(corpus, tmp_path / "t")
    assert load_tokenizer(tmp_path / "t").identity == first.identity


def test_special_tokens_have_ids_of_their_own_that_no_text_becomes(corpus: Path, tmp_path: Path) -> None:
    tokenizer = trained(corpus, tmp_path / "t")
    assert list(tokenizer.special_ids) == list(SPECIAL_TOKENS)
    assert sorted(tokenizer.special_ids.values()) == list(range(290, 300))
    assert tokenizer.special_ids[END_OF_TEXT] == tokenizer.eot_id == 299
    assert tokenizer.special_ids["<|pad|>"] != tokenizer.eot_id
    spelt = "".join(SPECIAL_TOKENS)
    ids = tokenizer.encode(spelt)
    assert not set(ids) & set(tokenizer.special_ids.values())
    assert tokenizer.encode_batch([spelt])[0].tolist() == ids
    assert tokenizer.decode(ids) == spelt
    assert tokenizer.decode(tokenizer.special_ids.values()) == spelt


def test_special_tokens_are_not_learnt_from_text_that_is_full_of_them() -> None:
    tokenizer = train_bpe(["".join(SPECIAL_TOKENS) * 200], 400)
    ids = tokenizer.encode("".join(SPECIAL_TOKENS))
    assert not set(ids) & set(tokenizer.special_ids.values())


def test_other_programs_read_it_with_its_special_tokens(corpus: Path, tmp_path: Path) -> None:
    ours = trained(corpus, tmp_path / "t")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json"))
    assert theirs.encode(TEXT).ids == ours.encode(TEXT)
    assert {token: theirs.token_to_id(token) for token in SPECIAL_TOKENS} == dict(ours.special_ids)
    assert theirs.encode("<|user|>").ids == [ours.special_ids["<|user|>"]]
    named = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    assert (named["eos_token"], named["pad_token"]) == (END_OF_TEXT, "<|pad|>")


def test_a_tokenizer_from_before_the_special_tokens_is_still_read(tmp_path: Path) -> None:
    new = train_bpe([TEXT], 300)
    old = BpeTokenizer(new._vocab, [], (END_OF_TEXT,))
    old.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    saved["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    read = load_tokenizer(tmp_path)
    assert (read.identity, read.vocab_size, read.eot_id) == (old.identity, 291, 290)


def test_a_folder_gives_its_size_to_the_model(corpus: Path, tmp_path: Path) -> None:
    trained(corpus, tmp_path / "t")
    config = settings_of(tmp_path / "t")
    assert (config.data.tokenizer.kind, config.data.tokenizer.vocab_size) == ("folder", 300)
    assert config.model.vocab_size == 300
    with pytest.raises(ConfigError, match=r"there is no tokenizer in .* yet: give its vocab_size"):
        settings_of(tmp_path / "nowhere")
    assert settings_of(tmp_path / "nowhere", vocab_size=500).model.vocab_size == 500
    with pytest.raises(DataError, match="there is no tokenizer in"):
        open_tokenizer(settings_of(tmp_path / "nowhere", vocab_size=500).data.tokenizer)
    with pytest.raises(DataError, match="not the one asked for") as caught:
        open_tokenizer(settings_of(tmp_path / "t", vocab_size=280).data.tokenizer)
    assert "`data.tokenizer.vocab_size=300`" in caught.value.hint


@pytest.mark.parametrize("section", [{"kind": "folder"}, {"kind": "gpt2", "path": "somewhere"}])
def test_a_folder_and_its_path_belong_together(section: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"belong together|vocab_size"):
        run_config({"data": {"tokenizer": section}}, source="test")


def test_shards_of_another_tokenizer_folder_are_refused(corpus: Path, tmp_path: Path) -> None:
    for name, size in (("a", 300), ("b", 280)):
        trained(corpus, tmp_path / name, size)
    config = DataConfig(path=str(corpus), tokenizer=settings_of(tmp_path / "a").data.tokenizer)
    made = prepare(config, tmp_path / "out")
    again = config.model_copy(update={"path": str(tmp_path / "out")})
    assert prepare(again, tmp_path / "unused").identity == made.identity
    assert settings_of(tmp_path / "out" / made.index.folder).data.tokenizer.vocab_size == 300, "its own tokenizer"
    other = again.model_copy(update={"tokenizer": settings_of(tmp_path / "b").data.tokenizer})
    with pytest.raises(DataError, match="not the one asked for") as caught:
        prepare(other, tmp_path / "unused")
    assert "holds `bpe`" in caught.value.why


def test_another_tokenizer_makes_other_shards_and_a_moved_one_the_same(corpus: Path, tmp_path: Path) -> None:
    for name, size in (("a", 300), ("b", 280)):
        trained(corpus, tmp_path / name, size)
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    made = [
        prepare(DataConfig(path=str(corpus), tokenizer=settings_of(tmp_path / name).data.tokenizer), tmp_path / "out")
        for name in ("a", "moved", "b")
    ]
    assert made[0].index == made[1].index
    assert made[0].identity != made[2].identity


def test_a_tokenizer_of_another_program_is_used_as_it_is(foreign: Path, corpus: Path, tmp_path: Path) -> None:
    tokenizer = loaded_foreign(foreign)
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.eot_id) == ("folder", 320, 1)
    assert dict(tokenizer.special_ids) == {"<|begin|>": 0, "<|im_end|>": 1}
    theirs = tokenizers.Tokenizer.from_file(str(foreign / "tokenizer.json"))
    assert tokenizer.encode(TEXT) == theirs.encode(TEXT, add_special_tokens=False).ids
    spelt = "a<|im_end|>b"
    assert not {0, 1} & set(tokenizer.encode(spelt))
    assert tokenizer.decode(tokenizer.encode(spelt)) == spelt
    made = prepare(DataConfig(path=str(corpus), tokenizer=settings_of(foreign).data.tokenizer), tmp_path / "out")
    travelled = made.load_tokenizer()
    assert (travelled.identity, travelled.eot_id) == (tokenizer.identity, 1)


def _lower_case(saved: dict[str, Any]) -> None:
    saved["normalizer"] = {"type": "Lowercase"}


def _no_end(saved: dict[str, Any]) -> None:
    saved["added_tokens"] = []


def _forgets_a_byte(saved: dict[str, Any]) -> None:
    del saved["model"]["vocab"]["A"]


def _is_a_list(saved: dict[str, Any]) -> None:
    saved.clear()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_lower_case, "it loses text: 'A' does not come back from its ids"),
        (_no_end, "it has no special token that ends a text"),
        (_forgets_a_byte, "Token"),
        (_is_a_list, ""),
    ],
)
def test_a_tokenizer_that_would_lose_text_is_refused(
    foreign: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    shutil.copytree(foreign, tmp_path / "f")
    path = tmp_path / "f" / "tokenizer.json"
    saved = json.loads(path.read_text())
    change(saved)
    path.write_text(json.dumps(saved))
    with pytest.raises(DataError, match="is not a tokenizer that can be used here") as caught:
        loaded_foreign(tmp_path / "f")
    assert caught.value.why.startswith(why)
    assert "\n" not in caught.value.why
    assert "python -m trainer tokenizer" in caught.value.hint
