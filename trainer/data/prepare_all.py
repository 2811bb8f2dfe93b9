"""Every source of a configuration made ready, with one tokenizer for them all."""

from __future__ import annotations

from pathlib import Path

from trainer.config import DataConfig, TokenizerConfig
from trainer.data.mixture import Mixture, Part, mixture_folder
from trainer.data.prepare import SHARD_TOKENS, prepare
from trainer.data.progress import Report, silently
from trainer.data.trained_tokenizer import train_tokenizer


def prepare_all(
    config: DataConfig, out: Path, report: Report = silently, *, shard_tokens: int = SHARD_TOKENS
) -> Mixture:
    """The shards of every source of `config`, each as `prepare` makes them; of a mixture each in a folder of its own.

    A BPE of a mixture is trained once, on all of its sources. Raises DataError.
    """
    if not config.datasets:
        shards = prepare(config, out, report, shard_tokens=shard_tokens)
        return Mixture((Part(config.path, 1.0, shards),))
    if config.tokenizer.kind == "bpe":
        config = config.model_copy(update={"tokenizer": _trained(config, out, report)})
    parts = tuple(
        Part(name, weight, prepare(part, mixture_folder(out, name), report, shard_tokens=shard_tokens))
        for name, (weight, part) in config.parts().items()
    )
    mixture = Mixture(parts)
    mixture.require_one_tokenizer()
    return mixture


def _trained(config: DataConfig, out: Path, report: Report) -> TokenizerConfig:
    folder = out / "tokenizer"
    tokenizer = train_tokenizer(config, folder, report)
    return TokenizerConfig(kind="folder", path=str(folder), vocab_size=tokenizer.vocab_size)
