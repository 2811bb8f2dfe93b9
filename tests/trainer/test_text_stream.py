"""Text as it comes: whole characters, stop strings, the commands that write."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.tiny import checkpoint
from trainer.cli import main
from trainer.cli.chat import converse
from trainer.models.policies import find_checkpoint, open_policy
from trainer.models.sampling import Sampling
from trainer.models.text_stream import TextStream, until_stop
from trainer.models.writer import Writer
from trainer.tokenizer.raw_bytes import BytesTokenizer

decode = BytesTokenizer().decode


def pieces_of(text: str, *stops: str) -> list[str]:
    stream = TextStream(decode, stops)
    return [piece for piece in [*(stream.push(byte) for byte in text.encode()), stream.rest()] if piece]


def test_a_character_comes_whole() -> None:
    assert pieces_of("aß€😀!") == ["a", "ß", "€", "😀", "!"]


def test_a_beginning_of_a_stop_string_is_held_back_until_it_is_none() -> None:
    assert pieces_of("a\nUseful\nUser: x", "\nUser:") == ["a", "\nUsef", "u", "l"]


@given(st.text(alphabet="ab€\n", max_size=30), st.lists(st.text("ab€\n", min_size=1, max_size=4), max_size=3))
def test_the_pieces_are_the_text_before_the_first_stop_to_be_complete(text: str, stops: list[str]) -> None:
    found = "".join(pieces_of(text, *stops))
    assert text.startswith(found)
    assert not any(stop in found for stop in stops)
    if not any(stop in text for stop in stops):
        assert found == text


def test_bytes_that_are_no_text_do_not_hold_up_the_rest() -> None:
    stream = TextStream(decode)
    text = "".join(stream.push(byte) for byte in [*[0xFF] * 9, *b"ok"]) + stream.rest()
    assert text.endswith("ok")


def test_until_stop_takes_the_first_of_several() -> None:
    assert until_stop("one two three", ["three", "two"]) == "one "
    assert until_stop("one", []) == "one"


@pytest.fixture
def writer(finished_run: Path) -> Writer:
    model, tokenizer = open_policy(checkpoint(finished_run, 12), torch.device("cpu"))
    return Writer(model, tokenizer, Sampling(1.0, seed=3), max_tokens=40)


def test_a_stream_is_the_text_that_is_written_at_once(writer: Writer) -> None:
    assert "".join(writer.stream("To be")) == writer.write(["To be"])[0]


def test_a_stop_string_ends_both_ways_at_the_same_place(writer: Writer) -> None:
    whole = writer.write(["To be"])[0]
    stop = whole[6:8]
    prompt_ids = writer.tokenizer.encode("To be")
    assert "".join(writer.stream_after(prompt_ids, (), [stop])) == whole[: whole.index(stop)]


def test_several_prompts_come_as_one_json_object_each(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", str(finished_run), "--prompt", "To be", "--prompt", "O", "--max-tokens", "5", "--json"]
    assert main(command) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["prompt"] for each in found] == ["To be", "O"]
    assert all(each["text"] for each in found)


def test_in_bf16_it_writes_what_the_rounded_model_writes(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for precision in ("fp32", "bf16"):
        words = ["--prompt", "To be", "--max-tokens", "300", "--temperature", "1", "--precision", precision]
        assert main(["generate", str(finished_run), *words]) == 0
        said[precision] = capsys.readouterr().out
    model, tokenizer = open_policy(find_checkpoint(finished_run), torch.device("cpu"))
    rounded = Writer(model.to(torch.bfloat16), tokenizer, Sampling(1.0, 50, 1.0, 1337), max_tokens=300)
    assert said["bf16"] == "To be" + "".join(rounded.stream("To be")) + "\n"
    assert said["bf16"] != said["fp32"], "300 draws, some of which a rounded logit decides"


@pytest.mark.parametrize("words", [["--top-p", "0"], ["--max-tokens", "0"], ["--stop", ""], ["--chat", "--json"]])
def test_what_cannot_be_meant_is_refused(
    finished_run: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(finished_run), *words]) == 3
    assert capsys.readouterr().err.startswith("error: --")


def test_a_conversation_answers_each_line_and_forgets_on_an_empty_one(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert converse(writer, io.StringIO("Hello\n\nHello\n"), "transcript") == 0
    said = capsys.readouterr().out
    answer = said[: len(said) // 2]
    assert said == 2 * answer + "\n"
    assert len(answer) > 1
