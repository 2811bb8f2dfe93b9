"""Where the text comes from, and how it becomes rows of ids, as a configuration says it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trainer.config.mapping import ColumnMapping
from trainer.config.problems import Unfit
from trainer.config.sources import canonical, hub_source
from trainer.config.strict import Model

Vocabularies = {"bytes": 257, "gpt2": 50257}
"""Sizes of the tokenizers whose vocabulary is fixed, end-of-text included."""

SMALLEST_BPE = 266
"""256 bytes and the ten special tokens of trainer.tokenizer.special."""

_WEIGHTS_MAY_MISS_ONE_BY = 1e-3
"""So that three thirds may be written 0.333."""


class TokenizerConfig(Model):
    """How text becomes ids."""

    kind: Literal["bytes", "gpt2", "bpe", "folder"] = "gpt2"
    """`bytes` needs nothing; `gpt2` is tiktoken's; `bpe` is trained on the corpus when it is prepared; `folder` is one
    that was saved before."""
    vocab_size: PositiveInt = Field(50257, ge=257)
    """Vocabulary of a `bpe` tokenizer, special tokens included. Fixed for the other kinds."""
    path: str = ""
    """Folder of a saved tokenizer: of `python -m trainer tokenizer`, of shards or of a checkpoint, or one of another
    program with a byte-level tokenizer.json. With it, `kind` may be left out."""

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, section: Any) -> Any:
        if not isinstance(section, Mapping):
            return section
        if section.get("path") and "kind" not in section:
            section = {**section, "kind": "folder"}
        kind, size = section.get("kind", "gpt2"), vocabulary_of(section)
        if isinstance(kind, str) and kind in Vocabularies and section.get("vocab_size", size) != size:
            raise ValueError(f"the `{kind}` tokenizer has {size} tokens; leave vocab_size out or choose kind `bpe`")
        return {"vocab_size": size, **section} if size is not None else section

    @model_validator(mode="after")
    def _whole(self) -> TokenizerConfig:
        if (self.kind == "folder") != bool(self.path):
            raise Unfit(
                "kind `folder` and a `path` belong together",
                why=f"kind is `{self.kind}`, path is `{self.path}`",
                hint="data.tokenizer.path=FOLDER without a kind, or a kind without a path",
            )
        if self.kind == "folder" and "vocab_size" not in self.model_fields_set:
            raise Unfit(
                f"there is no tokenizer in `{self.path}` yet: give its vocab_size, or make it first",
                why="the folder is not here, or has neither a tokenizer of ours nor a tokenizer.json over bytes",
                hint="python -m trainer tokenizer --vocab-size N --data TEXT --out FOLDER",
            )
        if self.kind == "bpe" and self.vocab_size < SMALLEST_BPE:
            raise ValueError(f"a `bpe` tokenizer has at least {SMALLEST_BPE} tokens: 256 bytes and the special ones")
        return self


def vocabulary_of(tokenizer: Mapping[str, Any]) -> Any:
    """The vocab_size that this section of a configuration amounts to; None where only its folder could tell."""
    kind = tokenizer.get("kind", "folder" if tokenizer.get("path") else "gpt2")
    if isinstance(kind, str) and kind in Vocabularies:
        return Vocabularies[kind]
    if "vocab_size" in tokenizer:
        return tokenizer["vocab_size"]
    return saved_vocabulary(str(tokenizer.get("path", ""))) if kind == "folder" else 8192


def saved_vocabulary(folder: str) -> int | None:
    """The number of ids of the tokenizer in `folder`; None where there is none that can be read."""
    root = Path(folder).expanduser()
    if not (root / "identity.json").exists() and (root / "tokenizer" / "identity.json").exists():
        root = root / "tokenizer"
    try:
        if (root / "identity.json").exists():
            return int(json.loads((root / "identity.json").read_text(encoding="utf-8"))["vocab_size"])
        saved = json.loads((root / "tokenizer.json").read_text(encoding="utf-8"))
        ids = [*saved["model"]["vocab"].values(), *(token["id"] for token in saved["added_tokens"])]
        return 1 + max(int(i) for i in ids)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class DatasetShare(Model):
    """One source of a mixture."""

    weight: PositiveFloat
    """Its share of the tokens that are trained on."""
    text_column: str = ""
    """As data.text_column, for this source alone."""
    template: str = ""
    """As data.template, for this source alone."""

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_a_weight(cls, section: Any) -> Any:
        return {"weight": section} if isinstance(section, (int, float)) else section


class DataConfig(Model):
    """Where the text comes from."""

    path: str = "sample"
    """A name (`fineweb`, `fineweb-edu`, `c4`, `synth`, `openwebtext`, `wikitext`, or `sample`: the plays that ship with
    the trainer), a dataset of the hub (`hf:owner/name:config@split`), a file or folder of text, or a folder of prepared
    shards. Relative paths start at the folder the trainer runs in, on a host the uploaded code. See docs/data.md."""
    datasets: dict[str, DatasetShare] = Field({})
    """A mixture instead of one path: `{fineweb: 0.6, c4: 0.4}`. Weights are shares of the tokens and sum to 1."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Must be the one the shards were made with; checked by hash."""
    text_column: str = ""
    """The column that holds the text. Left out, it is the named source's own, and `text` for everything else."""
    template: str = ""
    """Text with `{column}` in it, to make a document of several columns: `"Q: {question}\\nA: {answer}"`."""
    mapping: ColumnMapping = ColumnMapping()
    """For the stages after pretraining: which column is what, where a dataset has names of its own."""
    max_samples: PositiveInt | None = None
    """Take so many documents of each source at most."""
    max_tokens: PositiveInt | None = Field(None, ge=2)
    """Take so many tokens of each source at most; the last document is cut there."""
    val_fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Share of the tokens, taken from the end of the corpus, kept for validation."""
    rows: Literal["concat", "aligned", "isolated"] = "concat"
    """`concat` cuts the stream of documents every so many tokens; `aligned` begins every row with a document and drops
    what does not fit; `isolated` cuts like `concat`, and no token sees another document: positions begin anew."""
    seq_len: PositiveInt | None = None
    """Tokens in a row. Left out, it is model.max_seq_len, and it cannot be more."""

    @model_validator(mode="after")
    def _one_meaning(self) -> DataConfig:
        if self.datasets and "path" in self.model_fields_set and self.path != DataConfig.model_fields["path"].default:
            raise ValueError("`path` and `datasets` exclude each other: put the path among the datasets, with a weight")
        if self.text_column and self.template:
            raise ValueError("`text_column` and `template` exclude each other")
        seen: dict[str, str] = {}
        for name in self.datasets or [self.path]:
            if name != self.path and not name.strip():
                raise ValueError("a dataset without a name")
            if (one := canonical(name)) in seen:
                raise ValueError(f"`{seen[one]}` and `{name}` are the same source: add their weights up")
            seen[one] = name
        self._require_weights()
        return self

    def _require_weights(self) -> None:
        """Weights that do not sum to 1 hide a slip more often than they are meant."""
        total = math.fsum(share.weight for share in self.datasets.values())
        if self.datasets and abs(total - 1) > _WEIGHTS_MAY_MISS_ONE_BY:
            meant = ", ".join(f"{name}: {share.weight / total:.4g}" for name, share in self.datasets.items())
            raise ValueError(f"the weights sum to {total:.4g}, not to 1; in these proportions: {{{meant}}}")

    def parts(self) -> dict[str, tuple[float, DataConfig]]:
        """Each source by its name, with its share (they sum to exactly 1) and a configuration of its own."""
        if not self.datasets:
            return {self.path: (1.0, self)}
        total = math.fsum(share.weight for share in self.datasets.values())
        return {name: (share.weight / total, self._alone(name, share)) for name, share in self.datasets.items()}

    def _alone(self, name: str, share: DatasetShare) -> DataConfig:
        own = share.text_column or share.template
        columns = share if own else self
        update = {"text_column": columns.text_column, "template": columns.template, "path": name, "datasets": {}}
        return self.model_copy(update=update)

    def is_local(self, name: str) -> bool:
        """Whether `name`, a path or a dataset of this configuration, is a file or a folder."""
        return name != "sample" and hub_source(name) is None
