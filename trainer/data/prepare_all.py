"""Every source of a configuration made ready, with one tokenizer for them all."""

from __future__ import annotations

from pathlib import Path

from trainer.config import DataConfig, TokenizerConfig
from trainer.data.mixture import Mixture, Part, mixture_folder
from trainer.data.prepare import SHARD_TOKENS, is_prepared_already, prepare
from trainer.data.progress import Report, silently
from trainer.data.shards import open_shards
from trainer.data.sources import corpus_path
from trainer.data.trained_tokenizer import train_tokenizer
from trainer.errors import DataError
from trainer.quoting import pasteable, shown


def prepare_all(
    config: DataConfig, out: Path, report: Report = silently, *, shard_tokens: int = SHARD_TOKENS
) -> Mixture:
    """The shards of every source of `config`, each as `prepare` makes them; of a mixture each in a folder of its own.

    A BPE of a mixture is trained once, on all of its sources; folders of shards have one already. Raises DataError.
    """
    if not config.datasets:
        shards = prepare(config, out, report, shard_tokens=shard_tokens)
        return Mixture((Part(config.path, 1.0, shards),))
    texts = [name for name, (_, part) in config.parts().items() if not is_prepared_already(part)]
    if config.tokenizer.kind == "bpe" and texts:
        _require_all_texts(config, texts)
        config = config.model_copy(update={"tokenizer": _trained(config, out, report)})
    parts = tuple(
        Part(name, weight, prepare(part, mixture_folder(out, name), report, shard_tokens=shard_tokens))
        for name, (weight, part) in config.parts().items()
    )
    mixture = Mixture(parts)
    mixture.require_one_tokenizer()
    return mixture


def _require_all_texts(config: DataConfig, texts: list[str]) -> None:
    """A tokenizer that is trained now cannot be the one that some shards were made with before."""
    done = [name for name in config.datasets if name not in texts]
    if done:
        folder = open_shards(corpus_path(done[0])).tokenizer_folder
        raise DataError(
            f"{shown(done[0])} is prepared already, {shown(texts[0])} is not, and a new tokenizer cannot fit both",
            why="`data.tokenizer.kind=bpe` trains one on the texts of this mixture",
            hint=f"take that of the shards: `data.tokenizer.path={pasteable(folder)}`",
        )


def _trained(config: DataConfig, out: Path, report: Report) -> TokenizerConfig:
    folder = out / "tokenizer"
    tokenizer = train_tokenizer(config, folder, report)
    return TokenizerConfig(kind="folder", path=str(folder), vocab_size=tokenizer.vocab_size)
