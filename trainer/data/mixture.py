"""Several shard sets as one stream of rows, each with its share.

Which source sample i comes from, and which of its samples it is, are pure
functions of the weights and i: nothing is drawn and nothing is stored. Of the
first n samples, every source has its share of n to within one for each source
beside it. Rows are equally long, so the shares are those of the tokens.
A source whose rows have all been seen begins its next epoch, in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainer.data.shards import ShardSet
from trainer.errors import DataError
from trainer.quoting import shown
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.base import identity_of

_ONE = 1 << 48
"""Weights are counted in parts of this: after 10^12 samples a share is off by less than one."""


@dataclass(frozen=True)
class Part:
    """One source of a mixture."""

    name: str
    weight: float
    """The weights of all parts sum to 1."""
    shards: ShardSet


@dataclass(frozen=True)
class Mixture:
    """Shard sets of one tokenizer."""

    parts: tuple[Part, ...]

    @classmethod
    def of_one(cls, shards: ShardSet) -> Mixture:
        """One shard set, all by itself."""
        return cls((Part(shards.index.source, 1.0, shards),))

    @property
    def first(self) -> ShardSet:
        return self.parts[0].shards

    @property
    def identity(self) -> str:
        """Equal for equal tokens, tokenizers, splits and weights, wherever they were prepared."""
        if len(self.parts) == 1:
            return self.first.identity
        return identity_of(parts=[[part.shards.identity, part.weight] for part in self.parts])

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of them all. Raises DataError."""
        return self.first.load_tokenizer()

    def require_one_tokenizer(self) -> None:
        """Raises DataError where two sources were made with different ones."""
        for part in self.parts[1:]:
            if part.shards.tokenizer_identity != self.first.tokenizer_identity:
                raise DataError(
                    f"{shown(part.name)} and {shown(self.parts[0].name)} were made with different tokenizers",
                    why=f"`{part.shards.tokenizer_kind}` {part.shards.tokenizer_identity[:12]} and "
                    f"`{self.first.tokenizer_kind}` {self.first.tokenizer_identity[:12]}",
                    hint="prepare both from their texts again: `python -m trainer prepare data.datasets=...`",
                )

    def require_vocabulary(self, model_vocab_size: int) -> None:
        """Raises DataError where the embedding of a model has no row for some id."""
        for part in self.parts:
            part.shards.require_vocabulary(model_vocab_size)

    @cached_property
    def _splits(self) -> tuple[int, ...]:
        """Of what is left for them, the share of each part but the last, in parts of _ONE."""
        weights = [part.weight for part in self.parts]
        return splits_of(weights)

    def counts(self, samples: int) -> tuple[int, ...]:
        """How many of the first `samples` samples each part has."""
        return counts_of(self._splits, samples)

    def place(self, sample: int) -> tuple[int, int]:
        """The part sample `sample` comes from, and how many samples of that part come before it."""
        before, after = self.counts(sample), self.counts(sample + 1)
        part = next(number for number, (a, b) in enumerate(zip(before, after, strict=True)) if b > a)
        return part, before[part]

    def samples_within(self, rows: Sequence[int]) -> int:
        """How many samples there are before some part would have to give more than so many rows."""
        low, high = 0, sum(rows) + len(rows)
        while low < high:  # counts never fall, so the answer is found by halving
            middle = (low + high + 1) // 2
            fits = all(count <= limit for count, limit in zip(self.counts(middle), rows, strict=True))
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


def splits_of(weights: Sequence[float]) -> tuple[int, ...]:
    """The first part's share of all, the second's share of the rest, and so on, in parts of _ONE."""
    rest, splits = sum(weights), list[int]()
    for weight in weights[:-1]:
        splits.append(round(_ONE * weight / rest))
        rest -= weight
    return tuple(splits)


def counts_of(splits: Sequence[int], samples: int) -> tuple[int, ...]:
    """How many of the first `samples` samples each part has. Each count grows by one or stays, one of them grows."""
    left, counts = samples, list[int]()
    for split in splits:
        taken = (left * split + _ONE // 2) // _ONE
        counts.append(taken)
        left -= taken
    return (*counts, left)


def mixture_folder(out: Path, name: str) -> Path:
    """Where the shards of one source of a mixture are made."""
    word = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "_" for c in name).strip("._")[-60:]
    return out / f"{word or 'source'}-{identity_of(name=name)[:8]}"
