"""Tools within a rollout: they run, what they say is read and never learnt, and what goes wrong is said too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.tiny import rows
from tests.trainer.toy_task import toy_config, toy_files
from trainer.chats.encoding import Encoded, encode_segments
from trainer.chats.messages import Conversation, Message, ToolCall
from trainer.chats.template import TemplateKind, opening_of, segments_of, template_of
from trainer.config import ModelConfig
from trainer.config.reinforcement import RolloutConfig
from trainer.errors import DataError
from trainer.loop.start import run_stage
from trainer.models.cache import KVCache
from trainer.models.loss import IGNORE_INDEX
from trainer.rollouts.prompts import EncodedPrompt
from trainer.rollouts.rows import padded_rows
from trainer.rollouts.sampling import Sampled, Sampler
from trainer.rollouts.tools import Tools
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.bpe import train_bpe
from trainer.tokenizer.raw_bytes import BytesTokenizer

FUNCTIONS = """\
def add(a, b):
    return a + b

def forecast(city):
    return {"city": city, "sun": True}

def hangs():
    import time
    time.sleep(3600)
"""


class Scripted(nn.Module):
    """Says what a script has at each place, whatever it reads."""

    def __init__(self, script: list[int], vocab_size: int) -> None:
        super().__init__()
        self.script, self.vocab_size = script, vocab_size
        self.config = ModelConfig(d_model=8, n_heads=1, n_layers=1, max_seq_len=1024, vocab_size=vocab_size)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, ids_BT: Tensor, cache: KVCache, last_only: bool) -> Any:
        cache.length += ids_BT.shape[1]
        logits = torch.full((ids_BT.shape[0], 1, self.vocab_size), -100.0)
        logits[:, :, self.script[min(cache.length, len(self.script) - 1)]] = 100.0
        return SimpleNamespace(logits=logits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tools")
    (path / "tools.py").write_text(FUNCTIONS)
    return path


@pytest.fixture(scope="module")
def tagged() -> Tokenizer:
    return train_bpe(["add them up, and say what the weather is like in Oslo today"] * 2, 290)


def tools_of(folder: Path, seconds: float = 120.0) -> Tools:
    names = ("add", "forecast", "hangs")
    return Tools({name: f"{folder / 'tools.py'}:{name}" for name in names}, seconds)


CALLED = Conversation(
    (
        Message("user", "add 2 and 3"),
        Message("assistant", "", (ToolCall("add", {"a": 2, "b": 3}), ToolCall("forecast", {"city": "Oslo"}))),
        Message("tool", "5"),
        Message("tool", '{"city": "Oslo", "sun": true}'),
        Message("assistant", "it is 5"),
    )
)


def played(
    conversation: Conversation, tokenizer: Tokenizer, folder: Path, **settings: Any
) -> tuple[Sampled, Encoded, TemplateKind]:
    """What comes of a rollout whose policy says just what the assistant says in a conversation."""
    kind = template_of(tokenizer.special_ids)
    whole = encode_segments(segments_of(conversation, kind), tokenizer)
    asked = encode_segments(opening_of(Conversation(conversation.messages[:1]), kind), tokenizer).ids.tolist()
    config = RolloutConfig(**{"max_tokens": 900, "max_turns": 3, **settings})
    tools = tools_of(folder)
    sampler = Sampler(config, tokenizer, kind, tools)
    model = Scripted(whole.ids.tolist(), tokenizer.vocab_size)
    (found,) = sampler.sample(model, [EncodedPrompt(tuple(asked), "", {})], [0])
    tools.close()
    return found, whole, kind


@pytest.mark.parametrize("kind", ["tagged", "transcript"])
def test_a_rollout_with_tools_is_what_fine_tuning_would_read_and_the_same_of_it_is_learnt(
    folder: Path, tagged: Tokenizer, kind: str
) -> None:
    tokenizer = tagged if kind == "tagged" else BytesTokenizer()
    found, whole, has_kind = played(CALLED, tokenizer, folder)
    assert has_kind == kind
    row = found.row(0)
    # Fine-tuning also writes what follows a conversation's end.
    assert row.ids.tolist() == whole.ids[:-1].tolist()
    assert row.is_sampled.tolist() == whole.is_trained[:-1].tolist()
    assert not found.is_cut
    assert found.turns[-1].strip() == "it is 5"
    assert "sun" not in "".join(found.turns)
    assert "sun" in found.completed().completion
    labels = padded_rows([row], 0, torch.device("cpu")).labels_BT[0]
    assert (labels != IGNORE_INDEX).tolist() == row.is_sampled[1:].tolist()


def test_turns_and_room_are_limits(folder: Path) -> None:
    once, _, _ = played(CALLED, BytesTokenizer(), folder, max_turns=1)
    assert len(once.turns) == 1
    assert not once.is_cut
    assert all(once.is_sampled)
    short, _, _ = played(CALLED, BytesTokenizer(), folder, max_tokens=len(once.ids) + 10)
    assert short.ids == once.ids
    assert short.is_cut


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('{"name": "add", "arguments": {"a": 1, "b": 2}}', "3"),
        ('{"name": "add", "arguments": {"a": 1}}', "error: TypeError: "),
        ('{"name": "add", "arguments": {"a": 1, "b": 2, "c": 3}}', "error: TypeError: "),
        ('{"name": "add", "arguments": [1, 2]}', "error: the arguments are no JSON object"),
        ('{"name": "remove", "arguments": {}}', "error: there is no function `remove`"),
        ('{"name": "add", "arguments": {"a": 1', "error: the call is no JSON object with name and arguments"),
        ("[]", "error: the call is no JSON object with name and arguments"),
    ],
)
def test_a_call_is_answered_whatever_it_says(folder: Path, call: str, said: str) -> None:
    tools = tools_of(folder)
    (result,) = tools.results(f"let me see <|function_call|>{call}<|/function_call|>")
    tools.close()
    assert result.startswith(said)


def test_a_tool_that_hangs_is_ended_and_the_policy_is_told(folder: Path) -> None:
    tools = tools_of(folder, seconds=0.2)
    (result,) = tools.results('<|function_call|>{"name": "hangs", "arguments": {}}<|/function_call|>')
    tools.close()
    assert result == "error: no answer within 0.2 s"


def test_a_run_has_its_tools_loaded_before_it_begins(folder: Path, tmp_path: Path) -> None:
    toy = toy_files(tmp_path / "toy")
    good = (f"rollout.tools={{add: '{folder / 'tools.py'}:add'}}", "rollout.max_turns=2", "train.max_steps=2")
    run_stage("rgpo", toy_config(toy, tmp_path / "run", *good))
    assert rows(tmp_path / "run")
    with pytest.raises(DataError, match="cannot be used"):
        run_stage("rgpo", toy_config(toy, tmp_path / "bad", "rollout.tools={add: 'nowhere.py:add'}"))
