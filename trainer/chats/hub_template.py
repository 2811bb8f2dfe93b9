"""A chat template of transformers, where the policy's folder brings one: rendered by transformers, cut into segments.

Only one that marks what the assistant says (`{% generation %}`) can be learnt from; any other is refused. Special
tokens come from the template alone: what a row spells like one is hidden while the template runs, and comes back as
plain text. What ends an answer is learnt with it, also where the template leaves it outside its mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from trainer.chats.messages import Conversation, Message
from trainer.chats.template import Segment, Template, template_of
from trainer.errors import DataError
from trainer.tokenizer import Tokenizer

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_FIRST_HIDDEN = 0xF0000
"""Code points for private use, which stand for special tokens that a row spells."""


@dataclass(frozen=True)
class HubTemplate:
    """The template of one tokenizer."""

    source: str
    special: tuple[str, ...]
    """The special tokens, longest first."""
    end: str
    """The one that ends a text."""

    def __str__(self) -> str:
        return "hub"

    def segments(self, conversation: Conversation, trained: Sequence[bool] | None = None) -> list[Segment]:
        """The whole conversation. `trained`: for each message whether it is learnt; None: the assistant's are."""
        text, spans = self._rendered(conversation, opens=False)
        turns = [place for place, message in enumerate(conversation.messages) if message.role == "assistant"]
        if trained is not None:
            if len(spans) != len(turns):
                raise DataError(
                    "the chat template marks other turns than the assistant's",
                    why=f"{len(spans)} marks for {len(turns)} turns",
                    hint="sft.template=transcript",
                )
            spans = [span for span, place in zip(spans, turns, strict=True) if trained[place]]
        return list(self._ends_learnt(self._cut(text, spans)))

    def answered(self, prompt: Conversation, answer: Sequence[Message]) -> list[Segment]:
        """A prompt and one answer to it, of which the assistant's turns are learnt."""
        learnt = [False] * len(prompt.messages) + [message.role == "assistant" for message in answer]
        return self.segments(replace(prompt, messages=(*prompt.messages, *answer)), learnt)

    def opening(self, conversation: Conversation) -> list[Segment]:
        """A conversation that the assistant is to go on with: nothing in it is learnt."""
        text, _ = self._rendered(conversation, opens=True)
        return list(self._cut(text, []))

    def _rendered(self, conversation: Conversation, *, opens: bool) -> tuple[str, list[tuple[int, int]]]:
        """The text, what rows spell like special tokens hidden, and where the assistant speaks in it."""
        # Late: seconds, for those whose policy has a template.
        from transformers.utils.chat_template_utils import render_jinja_template

        messages = [self._plain(message) for message in conversation.messages]
        tools = [self._hidden(dict(tool)) for tool in conversation.tools] or None
        tokens = {"bos_token": "", "eos_token": self.end, "pad_token": self.end}
        try:
            texts, spans = render_jinja_template(
                conversations=[messages],
                tools=tools,
                chat_template=self.source,
                return_assistant_tokens_mask=True,
                add_generation_prompt=opens,
                **tokens,
            )
        except Exception as error:  # a template is a program of somebody else, and may raise anything
            raise DataError(
                "the chat template of the policy fails",
                why=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
                hint="sft.template=transcript",
            ) from error
        return texts[0], [(int(start), int(end)) for start, end in spans[0]]

    def _plain(self, message: Message) -> dict[str, Any]:
        found: dict[str, Any] = {"role": message.role, "content": self._hidden(message.content)}
        if message.tool_calls:
            found["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": self._hidden(dict(call.arguments))}}
                for call in message.tool_calls
            ]
        return found

    def _cut(self, text: str, spans: Sequence[tuple[int, int]]) -> Iterator[Segment]:
        """Parts that are learnt and parts that are not; in each, special tokens and the text between."""
        start = 0
        for begin, end in [*spans, (len(text), len(text))]:
            yield from self._parts(text[start:begin], False)
            yield from self._parts(text[begin:end], True)
            start = end

    def _parts(self, text: str, is_trained: bool) -> Iterator[Segment]:
        pattern = "|".join(map(re.escape, self.special))
        for part in re.split(f"({pattern})", text):
            if part in self.special:
                yield Segment(part, is_trained, is_special=True)
            elif part:
                yield Segment(self._shown(part), is_trained)

    def _ends_learnt(self, segments: Iterator[Segment]) -> Iterator[Segment]:
        was_trained = False
        for segment in segments:
            ends = was_trained and segment.is_special and not segment.is_trained
            yield replace(segment, is_trained=True) if ends else segment
            was_trained = segment.is_trained

    def _hidden(self, value: Any) -> Any:
        """The value with every special token that is spelled in it replaced by one letter nobody writes."""
        if isinstance(value, str):
            for number, token in enumerate(self.special):
                value = value.replace(token, chr(_FIRST_HIDDEN + number))
            return value
        if isinstance(value, Mapping):
            return {key: self._hidden(inner) for key, inner in value.items()}
        return [self._hidden(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    def _shown(self, text: str) -> str:
        for number, token in enumerate(self.special):
            text = text.replace(chr(_FIRST_HIDDEN + number), token)
        return text


def hub_template(source: str, special_ids: Mapping[str, int], eot_id: int) -> HubTemplate:
    """The template of a tokenizer with these special tokens. Raises DataError where it cannot be learnt from."""
    if not source:
        raise DataError(
            "the policy brings no chat template",
            why="there is neither chat_template.jinja nor `chat_template` in tokenizer_config.json",
            hint="sft.template=transcript",
        )
    if not can_mask(source):
        raise DataError(
            "the chat template of the policy does not say what the assistant says",
            why="it has no {% generation %}, so that what is learnt could only be guessed",
            hint="sft.template=transcript, or put {% generation %} … {% endgeneration %} around the assistant's words",
        )
    special = tuple(sorted(special_ids, key=len, reverse=True))
    end = next(token for token, i in special_ids.items() if i == eot_id)
    return HubTemplate(source, special, end)


def chosen_template(choice: Literal["auto", "tagged", "transcript", "hub"], tokenizer: Tokenizer) -> Template:
    """What `sft.template` means for this tokenizer. Raises DataError where it cannot be."""
    own = template_of(tokenizer.special_ids)
    if choice == "hub":
        source = getattr(tokenizer, "chat_template", "")
        return hub_template(source, tokenizer.special_ids, tokenizer.eot_id)
    if choice == "tagged" and own != "tagged":
        raise DataError(
            "`sft.template=tagged` needs a tokenizer with special tokens for turns",
            why=f"the `{tokenizer.kind}` tokenizer has none of them",
            hint="sft.template=auto",
        )
    return own if choice == "auto" else choice


def can_mask(source: str) -> bool:
    """Whether a template marks the assistant's words."""
    return bool(_MARK.search(source))
