"""The corpora that have a name, one row each, and how a source is written.

    sample   fineweb   fineweb:sample-100BT   hf:owner/name   hf:owner/name:config@split   a/file/or/folder

No network and no disk: a name is only taken apart here. Fetching is for
trainer.data.hub, files are for trainer.data.sources.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass, replace

from trainer.config.problems import did_you_mean

SAMPLE = "sample"
"""The plays that ship with the trainer."""
TEXT = "text"
"""The column most published corpora have."""


@dataclass(frozen=True)
class HubSource:
    """A dataset of the Hugging Face hub, and how its rows become documents."""

    dataset: str
    """owner/name"""
    config: str = ""
    """Which subset; "" is the dataset's own default."""
    split: str = "train"
    column: str = TEXT
    template: str = ""
    """Text with `{column}` in it; then `column` is not used."""
    begins_document: str = ""
    """A pattern: where each row is a line, those it matches begin a new document. "" makes every row one."""
    tokens: int = 0
    """About how many GPT-2 tokens it has, as its publisher says; 0 where nobody said."""

    @property
    def name(self) -> str:
        """As it is written after `hf:`; two spellings of one source have one name."""
        config = f":{self.config}" if self.config else ""
        return self.dataset + config + (f"@{self.split}" if self.split != "train" else "")


NAMED = {
    # Penedo et al. 2024; the samples of 10, 100 and 350 billion tokens are the publisher's own.
    "fineweb": HubSource("HuggingFaceFW/fineweb", "sample-10BT", tokens=10_000_000_000),
    "fineweb-edu": HubSource("HuggingFaceFW/fineweb-edu", "sample-10BT", tokens=10_000_000_000),
    # Raffel et al. 2020; 156 billion tokens, as the dataset's card counts them.
    "c4": HubSource("allenai/c4", "en", tokens=156_000_000_000),
    # 75 billion tokens, as the dataset's card counts them.
    "synth": HubSource(
        "PleIAs/SYNTH",
        template="Q: {query}\n\nReasoning:\n{synthetic_reasoning}\n\nA: {synthetic_answer}",
        tokens=75_000_000_000,
    ),
    # Rows of instructions and of pairs, for the stages after pretraining.
    "alpaca": HubSource("tatsu-lab/alpaca"),
    "hh-rlhf": HubSource("Anthropic/hh-rlhf", column="chosen"),
    # nanoGPT counts 9,035,582,198 tokens to train on and 4,434,897 to validate.
    "openwebtext": HubSource("Skylion007/openwebtext", tokens=9_040_017_095),
    # Merity et al. 2016. Each row is a line; a heading of the first level, ` = Title = `, begins an article.
    "wikitext": HubSource("Salesforce/wikitext", "wikitext-103-raw-v1", begins_document=r" = [^=](?:.*[^=])? = \n?"),
}
"""What can be said instead of a path."""

_SIZES = re.compile(r"(?:sample-)?(\d+)BT")
_HUB = re.compile(r"hf:(?P<dataset>[\w.-]+/[\w.-]+)(?::(?P<config>[^@:]+))?(?:@(?P<split>[\w.-]+))?")
_NAMED = re.compile(r"(?P<name>[\w-]+)(?::(?P<config>[^@:/]+))?(?:@(?P<split>[\w.-]+))?")


def hub_source(text: str) -> HubSource | None:
    """The hub's dataset that `text` names; None where it is a path, or the sample.

    A name of the table wins over a file of the same name, which is still reached as `./name`. Raises ValueError for
    what begins like a dataset of the hub and is none.
    """
    if text.startswith("hf:"):
        found = _HUB.fullmatch(text)
        if not found:
            raise ValueError(f"`{text}` is not of the form hf:owner/name, hf:owner/name:config or …@split")
        return HubSource(found["dataset"], found["config"] or "", found["split"] or "train")
    found = _NAMED.fullmatch(text)
    row = NAMED.get(found["name"]) if found else None
    if found is None or row is None:
        return None
    if config := found["config"]:
        size = _SIZES.fullmatch(config)
        row = replace(row, config=config, tokens=int(size[1]) * 10**9 if size else 0)
    return replace(row, split=found["split"], tokens=0) if found["split"] else row


def canonical(text: str) -> str:
    """One spelling for one source: two that differ only in how they are written are the same."""
    source = hub_source(text)
    return f"hf:{source.name}" if source else os.path.normpath(os.path.expanduser(text))


def nearest_name(text: str) -> str:
    """` (did you mean `fineweb`?)` for a path that looks like a misspelt name, else ""."""
    return did_you_mean(text, NAMED) if re.fullmatch(r"[\w-]+", text) else ""
