"""Evaluation: likelihoods by hand, loss on text by hand, HellaSwag's two styles, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.trainer.tiny import checkpoint, train_tiny
from trainer.cli import main
from trainer.errors import DataError
from trainer.evaluation.continuations import Continuation, likelihoods
from trainer.evaluation.held_out import held_out_loss
from trainer.evaluation.hellaswag import accuracy, continuation, read_questions
from trainer.evaluation.models import OwnModel, open_measured
from trainer.evaluation.texts import text_loss

SHARED = Path(__file__).parents[3] / "shared" / "data"


class Unigram:
    """A model of bytes whose next byte does not depend on what came before, so every figure can be had by hand."""

    name, max_seq_len, start_id = "unigram", 16, 256

    def __init__(self) -> None:
        self.logits_V = torch.randn(257, generator=torch.Generator().manual_seed(0))
        self.logps_V = self.logits_V.double().log_softmax(-1)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def logits(self, ids_BT: Tensor) -> Tensor:
        return self.logits_V.expand(*ids_BT.shape, 257)

    def logp(self, text: str) -> float:
        return float(self.logps_V[list(text.encode())].sum())


@pytest.fixture
def own(finished_run: Path) -> OwnModel:
    return OwnModel(checkpoint(finished_run, 12), torch.device("cpu"))


def test_a_continuation_is_as_likely_as_its_tokens_one_after_the_other(own: OwnModel) -> None:
    wanted = [continuation(own, "To be", " or not"), continuation(own, "A", "!"), continuation(own, "", "King")]
    together = likelihoods(own, wanted)
    for each, found in zip(wanted, together, strict=True):
        ids = torch.tensor([[*each.context, *each.ids]])
        logps_TV = own.logits(ids[:, :-1])[0].detach().log_softmax(-1)
        alone = sum(float(logps_TV[len(each.context) - 1 + i, token]) for i, token in enumerate(each.ids))
        assert found.logp == pytest.approx(alone, abs=1e-4)
        assert found.num_tokens == len(each.ids)


def test_a_greedy_continuation_is_known_as_one() -> None:
    model = Unigram()
    likeliest = int(model.logits_V.argmax())
    other = (likeliest + 1) % 256
    greedy, mixed = likelihoods(
        model, [Continuation((65,), (likeliest, likeliest)), Continuation((65,), (likeliest, other))]
    )
    assert (greedy.is_greedy, mixed.is_greedy) == (True, False)


def test_a_context_longer_than_the_model_loses_its_front_and_the_ending_counts_whole() -> None:
    model = Unigram()
    (found,) = likelihoods(model, [continuation(model, "x" * 100, " end")])
    assert found.logp == pytest.approx(model.logp(" end"), abs=1e-4)


def test_loss_on_text_is_that_of_every_token_once_and_bytes_are_those_of_the_text() -> None:
    model = Unigram()
    documents = ["a line that is longer than one window", "", "größer"]
    found = text_loss(model, documents)
    assert found.num_bytes == found.num_tokens == len("".join(documents).encode())
    assert found.nats == pytest.approx(-sum(model.logp(each) for each in documents), rel=1e-6)
    assert found.bits_per_byte == pytest.approx(found.loss / math.log(2))
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_on_its_own_shards_a_checkpoint_has_the_loss_of_its_validation_rows(own: OwnModel, finished_run: Path) -> None:
    from trainer.data import TokenRows, open_shards

    shards = open_shards(finished_run / "data")
    rows = torch.from_numpy(TokenRows(shards, "val", own.max_seq_len).rows(range(64)))
    logits_BTV = own.logits(rows[:, :-1])
    by_hand = float(F.cross_entropy(logits_BTV.flatten(0, 1), rows[:, 1:].flatten()))
    found = held_out_loss(own, str(finished_run / "data"))
    assert found.num_tokens == (shards.val_tokens - 1) // own.max_seq_len * own.max_seq_len
    assert found.loss == pytest.approx(by_hand, abs=0.15)  # 64 of its rows stand for all
    assert abs(found.num_bytes - found.num_tokens) <= shards.documents  # a token of this tokenizer is a byte


def test_no_text_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="no text"):
        held_out_loss(Unigram(), str(tmp_path / "empty.txt"))


def write_rows(path: Path) -> Path:
    rows = [
        {"activity_label": "A", "ctx": "Go. he", "endings": ["aaaa", "zq"], "label": "0"},
        {"activity_label": "B", "ctx": "Stop [title] now.", "endings": ["zqzq", "a [x] a"], "label": 1},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_two_styles_differ_in_context_and_in_what_they_divide_by(tmp_path: Path) -> None:
    questions = read_questions(write_rows(tmp_path / "rows.jsonl"))
    assert [each.harness_context for each in questions] == ["A: Go. He", "B: Stop. now."]
    model = Unigram()

    def winners(score: dict[str, list[float]]) -> float:
        right = [max((0, 1), key=score[q.context].__getitem__) == q.answer for q in questions]
        return sum(right) / len(right)

    by_tokens = {q.context: [model.logp(" " + e) / len(" " + e) for e in q.endings] for q in questions}
    sums = {q.context: [model.logp(" " + e) for e in q.endings] for q in questions}
    found = accuracy(model, questions, "completion")
    assert (found.acc, found.acc_norm, found.rows) == (winners(sums), winners(by_tokens), 2)
    cleaned = {q.context: [e.replace("[x]", "").replace("  ", " ") for e in q.endings] for q in questions}
    by_letters = {c: [model.logp(" " + e) / len(e) for e in endings] for c, endings in cleaned.items()}
    assert accuracy(model, questions, "harness").acc_norm == winners(by_letters)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "JSONDecodeError"),
        ('{"ctx": "a", "endings": ["b"]}', "label"),
        ('{"ctx": "a", "endings": ["b"], "label": 3}', "names none"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    with pytest.raises(DataError) as caught:
        read_questions(tmp_path / "rows.jsonl")
    assert "rows.jsonl" in caught.value.what
    assert "line 1" in caught.value.what
    assert why in caught.value.why


def test_the_command_measures_a_run_on_its_own_text_and_on_hellaswag(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    arguments = ["evaluate", str(finished_run), "--data", str(finished_run / "data"), "--hellaswag", str(rows)]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert set(report) == {"model", "texts", "hellaswag"}
    assert 2.0 < report["texts"][0]["loss"] < 6.0
    assert set(report["hellaswag"]) == {"completion", "harness"}
    assert main(arguments) == 0
    assert "bits per byte" in capsys.readouterr().out


def test_a_run_on_shards_that_were_there_before_is_measured_on_those(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = (finished_run / "data").rename(tmp_path / "shards")
    train_tiny(tmp_path / "run", f"data.path={shards}", "train.max_steps=3")
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    (text,) = json.loads(capsys.readouterr().out)["texts"]
    assert text["data"] == str(shards)
    assert text["tokens"] > 1000


def test_a_run_without_its_data_says_where_text_can_come_from(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished_run / "data").rename(finished_run / "elsewhere")
    assert main(["evaluate", str(finished_run)]) == 3
    assert "--data" in capsys.readouterr().err


def test_shards_of_another_tokenizer_are_refused(finished_run: Path) -> None:
    with pytest.raises(DataError, match="another tokenizer"):
        held_out_loss(Unigram(), str(finished_run / "data"))


def test_a_folder_of_transformers_is_measured_too(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    alphabet = {token: i for i, token in enumerate(sorted(ByteLevel.alphabet()))}
    inner = Tokenizer(BPE({**alphabet, "<|end|>": 256}, []))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>").save_pretrained(tmp_path)
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=257, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=256, eos_token_id=256
    )
    network = GPT2LMHeadModel(shape).eval().requires_grad_(False)
    network.save_pretrained(tmp_path)
    model = open_measured(str(tmp_path), torch.device("cpu"))
    found = text_loss(model, ["Hello there"])
    ids = torch.tensor([[256, *model.encode("Hello there")]])
    by_hand = float(F.cross_entropy(network(ids[:, :-1]).logits[0], ids[0, 1:], reduction="sum"))
    assert found.nats == pytest.approx(by_hand, rel=1e-5)
    assert found.num_bytes == 11
