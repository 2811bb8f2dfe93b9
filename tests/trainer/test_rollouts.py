"""Rollouts: prompts that fit, what is sampled and under which log-probability, and rows that are padded and kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trainer.config import ModelConfig
from trainer.config.reinforcement import RolloutConfig
from trainer.errors import DataError
from trainer.models.branched import bare
from trainer.models.build import build_model
from trainer.models.language_model import LanguageModel
from trainer.models.loss import IGNORE_INDEX
from trainer.rollouts.prompts import EncodedPrompt, PromptData, load_prompts
from trainer.rollouts.rows import RolloutRow, padded_rows, row_of
from trainer.rollouts.sampling import Sampled, Sampler
from trainer.rollouts.scored import token_logps
from trainer.rollouts.tools import Tools
from trainer.tokenizer.raw_bytes import BytesTokenizer

BYTES = BytesTokenizer()


def model_of(arch: str = "gpt2") -> LanguageModel:
    torch.manual_seed(0)
    config = {"arch": arch, "d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64, "vocab_size": 257}
    model = build_model(ModelConfig.model_validate({**config, "dropout": 0.5}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def sampled(model: LanguageModel, config: RolloutConfig, asked: list[str], seed: int = 1) -> list[Sampled]:
    prompts = [EncodedPrompt(tuple(text.encode()), text, {}) for text in asked]
    sampler = Sampler(config, BYTES, "transcript", Tools({}, 1.0))
    return sampler.sample(model, prompts, [seed])


ASKED = ["a" * (1 + i % 7) + "b" for i in range(48)]


@pytest.mark.parametrize("arch", ["gpt2", "modern"])
def test_each_sampled_token_has_the_log_probability_that_the_loss_gives_it(arch: str) -> None:
    """Prompts of many lengths, a temperature, and dropout that would show: of all tokens, the last one included."""
    model = model_of(arch).train()
    found = sampled(model, RolloutConfig(max_tokens=24, temperature=0.7), ASKED)
    rows = [each.row(i) for i, each in enumerate(found)]
    again = token_logps(model, rows, temperature=0.7, pad_id=256, micro_batch_size=5)
    for row, (logps, values) in zip(rows, again, strict=True):
        assert values is None
        assert logps == pytest.approx(row.tokens["sampled_logps"], abs=1e-4)
        assert not logps[~row.is_sampled[1:]].any()
    assert model.training


def test_what_ends_a_completion_is_learnt_and_is_not_in_its_text() -> None:
    found = sampled(model_of(), RolloutConfig(max_tokens=40), ASKED)
    ended = [each for each in found if not each.is_cut]
    assert ended
    assert len(ended) < len(found)
    for each in found:
        row = each.row(0)
        assert row.num_sampled == len(each.ids) <= 40
        assert (each.ids[-1] == BYTES.eot_id) == (not each.is_cut)
        assert row.is_sampled[-1]
        assert not row.is_sampled[: len(each.prompt.ids)].any()
        text = each.completed().completion
        assert "endoftext" not in text
        assert text == BYTES.decode(each.ids if each.is_cut else each.ids[:-1])


def test_the_same_seed_gives_the_same_completions_and_another_gives_others() -> None:
    model, config = model_of(), RolloutConfig(max_tokens=8)
    once, again, other = ([each.ids for each in sampled(model, config, ASKED[:8], seed)] for seed in (1, 1, 2))
    assert once == again != other


def row(length: int, first: int, sample: int = 0) -> RolloutRow:
    numbers = np.linspace(-1, 1, length - 1).astype(np.float32)
    return RolloutRow(
        np.arange(length, dtype=np.int32), np.arange(length) >= first, sample, tokens={"advantages": numbers}
    )


def test_rows_are_padded_on_the_right_and_only_what_was_sampled_is_a_label() -> None:
    rows = [row(5, 2), row(3, 1)]
    padded = padded_rows(rows, 99, torch.device("cpu"))
    assert padded.ids_BT.tolist() == [[0, 1, 2, 3], [0, 1, 99, 99]]
    no = IGNORE_INDEX
    assert padded.labels_BT.tolist() == [[no, 2, 3, 4], [1, 2, no, no]]
    assert padded.tokens["advantages"][1].tolist() == [-1.0, 1.0, 0.0, 0.0]


def test_a_row_is_given_back_exactly_from_a_checkpoint() -> None:
    before = row(7, 3, sample=12).having(is_learnt=False, old_logps=np.float32([0.1, 1 / 3, -7, 0, 0, 1e-30]))
    after = row_of(before.as_json())
    assert (after.sample, after.is_learnt) == (12, False)
    assert np.array_equal(after.ids, before.ids)
    assert np.array_equal(after.is_sampled, before.is_sampled)
    assert after.tokens.keys() == before.tokens.keys()
    assert all(np.array_equal(after.tokens[name], before.tokens[name]) for name in before.tokens)


def test_the_bare_model_is_found_in_what_wraps_it() -> None:
    model = model_of()
    assert bare(model) is model
    assert bare(torch.nn.DataParallel(model)) is model


def loaded(rows: list[dict[str, Any]], longest: int = 40) -> PromptData:
    return load_prompts(rows, BYTES, "transcript", longest=longest, val_fraction=0.1)


def test_prompts_come_from_any_format_with_the_answer_as_a_reference() -> None:
    rows = [
        {"prompt": "2+2?", "answer": "4", "level": 3},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        {"instruction": "add", "input": "1 1", "output": "2"},
        {"prompt": "why", "chosen": "so", "rejected": "no"},
        {"prompt": "and?"},
        {"prompt": "last one validates"},
    ]
    data = loaded(rows)
    assert BYTES.decode(data.train[0].ids) == "User: 2+2?\nAssistant:"
    assert [prompt.text for prompt in data.train] == ["2+2?", "hi", "add\n\n1 1", "why", "and?"]
    assert [prompt.columns.get("reference") for prompt in data.train] == ["4", "hello", "2", None, None]
    assert data.train[0].columns == {"answer": "4", "level": 3, "reference": "4"}
    assert len(data.val) == 1


def test_prompts_that_are_too_long_are_left_out_and_counted() -> None:
    rows = [{"prompt": "x" * length} for length in (1, 2, 99, 3)]
    data = loaded(rows)
    assert data.counts == {"rows": 4, "too long": 1}
    assert len(data.train) + len(data.val) == 3
    assert loaded(rows[:2]).identity != data.identity


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "there are none"),
        ([{"prompt": "x" * 99}] * 3, "3 too long"),
        ([{"prompt": ""}] * 3 + [{"messages": "hi"}] * 3, "row 4: `messages` is no list of messages"),
    ],
)
def test_rows_that_cannot_be_asked_are_refused_in_words(rows: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(DataError) as caught:
        loaded(rows)
    assert why in caught.value.why
