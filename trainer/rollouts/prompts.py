"""Prompts of a run, encoded: what is asked in training, what validates, and what was left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.chats.encoding import encode_segments
from trainer.chats.formats import Format, NotThatFormat, conversation_of, format_of, prompt_of
from trainer.chats.messages import Conversation
from trainer.chats.template import Template, opening_of
from trainer.errors import DataError
from trainer.tokenizer import Tokenizer

_MOST_BAD_SHARE = 0.1
_NO_COLUMNS = ("prompt", "completion", "turns")
"""Names under which a reward function gets what the policy was asked and said."""


@dataclass(frozen=True)
class EncodedPrompt:
    """What a policy is asked, and what its reward functions are told."""

    ids: tuple[int, ...]
    text: str
    """Its last message."""
    columns: Mapping[str, Any]
    """All others of its row; and as `reference` the answer the row ends with, where it has one."""
    conversation: Conversation | None = None
    """The whole of it, for reward models that read text."""


@dataclass(frozen=True)
class PromptData:
    """Encoded prompts, split by place: the last ones validate."""

    train: list[EncodedPrompt]
    val: list[EncodedPrompt]
    format: Format
    counts: Counter[str]
    identity: str


def load_prompts(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    template: Template,
    *,
    longest: int,
    val_fraction: float,
) -> PromptData:
    """Read, render and encode every row; those longer than `longest` ids are left out.

    Raises DataError where too many rows are bad, or too few are left.
    """
    counts: Counter[str] = Counter()
    kept: list[EncodedPrompt] = []
    first_problem = ""
    first_format: Format | None = None
    for number, row in enumerate(rows, start=1):
        counts["rows"] += 1
        try:
            format = _format(row, first_format)
            first_format = first_format or format
            prompt = _encoded(row, format, tokenizer, template)
        except (NotThatFormat, KeyError) as problem:
            counts["bad"] += 1
            first_problem = first_problem or f"row {number}: {problem}"
            continue
        if len(prompt.ids) > longest:
            counts["too long"] += 1
        else:
            kept.append(prompt)
    _require_good(counts, kept, first_problem, longest)
    held_out = max(1, round(len(kept) * val_fraction))
    if held_out >= len(kept):
        raise DataError("too few prompts to train on and to validate", why=f"{len(kept)} fit", hint="more rows")
    assert first_format is not None
    return PromptData(kept[:-held_out], kept[-held_out:], first_format, counts, _identity(kept))


def _format(row: Mapping[str, Any], first: Format | None) -> Format:
    """Where rows before had a format, one without any is a bad row; the first row of all tells what the file is."""
    try:
        return format_of(row)
    except DataError as error:
        if first is None:
            raise
        raise NotThatFormat(f"{error.what}: {error.why}") from error


def _encoded(row: Mapping[str, Any], format: Format, tokenizer: Tokenizer, template: Template) -> EncodedPrompt:
    prompt = prompt_of(row, format)
    columns = {name: value for name, value in prompt.columns.items() if name not in _NO_COLUMNS}
    if (reference := _reference(row, format)) is not None:
        columns.setdefault("reference", reference)
    ids = encode_segments(opening_of(prompt.conversation, template), tokenizer).ids.tolist()
    # An empty text is "anything": end-of-text begins it.
    last = prompt.conversation.messages[-1].content
    return EncodedPrompt(tuple(ids or [tokenizer.eot_id]), last, columns, prompt.conversation)


def _reference(row: Mapping[str, Any], format: Format) -> str | None:
    """The answer a row ends with, where it has one."""
    try:
        if format == "preference":
            return None
        last = conversation_of(row, format).messages[-1]
    except NotThatFormat:  # a prompt without an answer
        return None
    return last.content if last.role == "assistant" else None


def _require_good(counts: Counter[str], kept: list[EncodedPrompt], first_problem: str, longest: int) -> None:
    if counts["bad"] > _MOST_BAD_SHARE * counts["rows"] or not kept:
        told = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count) or "there are none"
        raise DataError(
            "the rows are no prompts that can be asked",
            why=f"{told}; {first_problem}".rstrip("; ") + f"; a prompt may have {longest} tokens",
            hint="rows have `prompt`, or conversations; for long ones `data.seq_len=...` or `rollout.max_tokens=...`",
        )


def _identity(prompts: Iterable[EncodedPrompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr((prompt.ids, sorted(prompt.columns.items()))).encode())
    return digest.hexdigest()
