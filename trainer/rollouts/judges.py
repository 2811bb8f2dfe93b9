"""Reward models as judges of completions: one trained here reads the policy's ids, one of transformers reads text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from trainer.chats.messages import Conversation, Message
from trainer.chats.template import segments_of
from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.models.classifier import SequenceClassifier
from trainer.models.hf_folder import is_hf
from trainer.models.reward_model import open_reward_model, scores
from trainer.quoting import shown
from trainer.rewards.scoring import Completed
from trainer.rollouts.rows import RolloutRow
from trainer.tokenizer import Tokenizer


class Judge(Protocol):
    """A model that says how good a completion is."""

    def scores(self, completed: Sequence[Completed], rows: Sequence[RolloutRow]) -> list[float]:
        """Of each completion, given as text and as a row."""


def open_judge(name: str, tokenizer: Tokenizer, config: RunConfig, device: torch.device) -> Judge:
    """The model behind `model:NAME` of a reward function. Raises CheckpointError and DataError."""
    if is_hf(name):
        return TextJudge(name, device, micro_batch_size=config.train.micro_batch_size)
    return RowJudge(name, tokenizer, config, device)


class RowJudge:
    """One that the stage `reward` trained; it reads the policy's own tokens."""

    def __init__(self, path: str, tokenizer: Tokenizer, config: RunConfig, device: torch.device) -> None:
        """Raises CheckpointError and DataError."""
        self._model, theirs = open_reward_model(Path(path).expanduser(), device)
        self._eot_id, self._micro, self._device = tokenizer.eot_id, config.train.micro_batch_size, device
        if theirs.identity != tokenizer.identity:
            raise DataError(
                f"the reward model {shown(path)} has another tokenizer than the policy",
                why="the same ids mean other text",
                hint="train it from the policy's own checkpoint: `python -m trainer reward model.init_from=...`",
            )
        if self._model.config.max_seq_len < config.seq_len:
            raise DataError(
                f"the reward model {shown(path)} has fewer positions than the rows",
                why=f"{self._model.config.max_seq_len} and {config.seq_len}",
                hint=f"data.seq_len={self._model.config.max_seq_len}",
            )

    @torch.no_grad()
    def scores(self, completed: Sequence[Completed], rows: Sequence[RolloutRow]) -> list[float]:
        """Of each row, read where it was read in training: at the last token before the end of the text."""
        found: list[float] = []
        for first in range(0, len(rows), self._micro):
            part = rows[first : first + self._micro]
            ids_BT = torch.zeros(len(part), max(len(row.ids) for row in part), dtype=torch.int64)
            for place, row in enumerate(part):
                ids_BT[place, : len(row.ids)] = torch.from_numpy(row.ids.astype("int64"))
            last_B = torch.tensor([len(row.ids) - 1 - int(row.ids[-1] == self._eot_id) for row in part])
            found += scores(self._model, ids_BT.to(self._device), last_B.to(self._device)).tolist()
        return found


class TextJudge:
    """A sequence classifier of transformers; its tokenizer may be another than the policy's."""

    def __init__(self, source: str, device: torch.device, *, micro_batch_size: int) -> None:
        """Raises CheckpointError."""
        self._model = SequenceClassifier(source, device, micro_batch_size=micro_batch_size)

    def scores(self, completed: Sequence[Completed], rows: Sequence[RolloutRow] = ()) -> list[float]:
        """Of each conversation: by the model's own chat template where it has one, else as a transcript."""
        if self._model.has_template:
            return self._model.scores([self._written(each) for each in completed], add_special_tokens=False)
        return self._model.scores([self._model.without_special(transcript(each)) for each in completed])

    def _written(self, completed: Completed) -> str:
        conversation = _conversation(completed)
        return self._model.written([_plain(message) for message in conversation.messages], conversation.tools)


def transcript(completed: Completed) -> str:
    """`User: …`, `Assistant: …`, a turn a line."""
    segments = segments_of(_conversation(completed), "transcript")
    return "".join(segment.text for segment in segments if not segment.is_special).rstrip("\n")


def _conversation(completed: Completed) -> Conversation:
    asked = completed.asked or Conversation((Message("user", completed.prompt),))
    return Conversation((*asked.messages, Message("assistant", completed.completion)), asked.tools)


def _plain(message: Message) -> dict[str, Any]:
    """As chat templates of transformers read it."""
    calls = [
        {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
        for call in message.tool_calls
    ]
    return {"role": message.role, "content": message.content, **({"tool_calls": calls} if calls else {})}
