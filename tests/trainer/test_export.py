"""What is exported is what transformers loads: equal logits, equal ids, whatever the network and the tokenizer."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainer.gpt2_bpe import gpt2_cache
from tests.trainer.tiny import train_tiny
from trainer.cli import main
from trainer.config import TokenizerConfig
from trainer.errors import CheckpointError, ExitCode
from trainer.models.export import export
from trainer.models.export_tokenizer import merges_of, write_tokenizer
from trainer.models.policies import find_checkpoint, open_policy
from trainer.tokenizer import Tokenizer, open_tokenizer, train_bpe

TEXT = "ROMEO:\nWhat's here? É 日本語 🙂  two  spaces\t\r\n<|endoftext|> 12345 ...don't\n"
BPE_TEXT = ["to be or not to be, that is the question " * 20, TEXT * 3]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(gpt2_cache(tmp_path_factory.mktemp("tiktoken"))))
        yield open_tokenizer(TokenizerConfig(kind="gpt2"))


@pytest.fixture(params=["bytes", "gpt2", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "gpt2":
        tokenizer: Tokenizer = request.getfixturevalue("gpt2")
        return tokenizer
    return train_bpe(BPE_TEXT, 300) if request.param == "bpe" else open_tokenizer(TokenizerConfig(kind="bytes"))


def test_transformers_gives_the_same_ids_and_the_same_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer(tokenizer, tmp_path)
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path)
    text = TEXT.replace("<|endoftext|>", "")
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.eos_token_id == tokenizer.eot_id
    assert len(theirs) == tokenizer.vocab_size


def test_merges_are_found_again_from_the_tokens() -> None:
    tokens = [b"a", b"b", b"c", b"ab", b"abc", b"ca", b"abab"]
    assert merges_of(tokens) == [(b"a", b"b"), (b"ab", b"c"), (b"c", b"a"), (b"ab", b"ab")]


@pytest.mark.parametrize(
    "network",
    [
        [],
        ["model.qkv_bias=false", "model.tied_head=false"],
        ["model.arch=modern", "optim.kind=muon"],
        ["model.arch=modern", "model.activation=swiglu", "model.tied_head=false", "optim.kind=muon"],
    ],
)
def test_a_trained_run_is_exported_with_equal_logits_and_ids(network: list[str], tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "exported"
    train_tiny(run, *network, "train.max_steps=3", "eval.every_steps=3", "schedule.warmup_steps=1")
    assert main(["export", str(run), str(folder)]) == ExitCode.OK
    ours, tokenizer = open_policy(find_checkpoint(run), torch.device("cpu"))
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)("To be, or not", return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == tokenizer.encode("To be, or not")
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, rtol=0, atol=1e-5)
    assert theirs.config.eos_token_id == tokenizer.eot_id


def test_a_folder_with_something_in_it_is_left_alone(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="is there already"):
        export(finished_run, folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_filled_and_nothing_half_made_is_left(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    export(finished_run, folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert not (tmp_path / "empty.tmp").exists()


def test_what_cannot_be_written_is_named(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        export(finished_run, tmp_path / "file" / "below")
