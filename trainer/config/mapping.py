"""Which column of a dataset is what, for the stages after pretraining: `data.mapping`.

A row's format is known by its columns; a dataset that calls them otherwise is read by naming each. No rows here:
trainer.chats.renaming lays the names over them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import model_validator

from trainer.config.strict import Model


@dataclass(frozen=True)
class FormatColumns:
    """The columns of one format."""

    needed: frozenset[str]
    """It is known by them."""
    also: frozenset[str] = frozenset()
    """And reads these, where they are there."""

    def has(self, names: frozenset[str]) -> bool:
        """Whether it reads all of them."""
        return names <= self.needed | self.also


FORMAT_COLUMNS: dict[str, FormatColumns] = {
    "preference": FormatColumns(frozenset({"chosen", "rejected"}), frozenset({"prompt", "tools"})),
    "messages": FormatColumns(frozenset({"messages"}), frozenset({"tools"})),
    "sharegpt": FormatColumns(frozenset({"conversations"}), frozenset({"tools"})),
    "alpaca": FormatColumns(frozenset({"instruction", "output"}), frozenset({"input", "system"})),
    "prompt": FormatColumns(frozenset({"prompt"}), frozenset({"completion", "response", "answer", "tools"})),
}
"""In the order in which they are looked for: the first whose columns a row has is the row's."""
_FOR_REWARDS = frozenset({"answer", "calls"})
"""What shipped reward functions read beside any format."""


class ColumnMapping(Model):
    """Columns of a dataset by what they are: `{prompt: question, completion: answer}`. What is left out has its own
    name already, or is not there."""

    messages: str = ""
    """Column with a list of messages: role and content."""
    conversations: str = ""
    """Column with a list of turns as ShareGPT writes them: from and value."""
    tools: str = ""
    """Column with the JSON schemas of the functions there are."""
    instruction: str = ""
    """Column with what is asked; goes with `output`."""
    input: str = ""
    """Column with what the instruction is about."""
    output: str = ""
    """Column with the answer to `instruction`."""
    system: str = ""
    """Column with what stands above `instruction`."""
    prompt: str = ""
    """Column with what comes before an answer: a text or messages."""
    completion: str = ""
    """Column with the answer to `prompt`."""
    chosen: str = ""
    """Column with the better answer of a pair."""
    rejected: str = ""
    """Column with the worse one."""
    answer: str = ""
    """Column with the right answer, which `exact_match` compares with."""
    calls: str = ""
    """Column with the right calls, which `tool_call` compares with."""

    @property
    def named(self) -> dict[str, str]:
        """What each mapped column is, and its name in the dataset."""
        return {name: column for name in type(self).model_fields if (column := getattr(self, name))}

    @model_validator(mode="after")
    def _of_one_format(self) -> ColumnMapping:
        names = frozenset(self.named)
        if not formats_of(names):
            known = "; ".join(
                f"{name}: {', '.join(sorted(each.needed | each.also))}" for name, each in FORMAT_COLUMNS.items()
            )
            raise ValueError(f"no format of rows has {' and '.join(f'`{name}`' for name in self.named)} ({known})")
        return self


def formats_of(names: frozenset[str]) -> list[str]:
    """The formats that read all columns of these names."""
    return [name for name, each in FORMAT_COLUMNS.items() if each.has(names - _FOR_REWARDS)]
