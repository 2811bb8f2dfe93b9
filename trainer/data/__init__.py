"""Text to rows of tokens.

name, file or folder ── opening ──▶ source of documents ── prepare ──▶ shards on disk, with their tokenizer
shard sets and weights ── mixture ──▶ sampling ──▶ (n, seq_len + 1) ids, in an order that is a pure function of
(seed, index)
"""

from trainer.data.mixture import Mixture, Part
from trainer.data.order import order
from trainer.data.prepare import prepare
from trainer.data.prepare_all import prepare_all
from trainer.data.progress import Progress
from trainer.data.rows import TokenRows
from trainer.data.sampling import Sampler
from trainer.data.shards import ShardSet, open_shards
from trainer.data.trained_tokenizer import train_tokenizer

__all__ = [
    "Mixture",
    "Part",
    "Progress",
    "Sampler",
    "ShardSet",
    "TokenRows",
    "open_shards",
    "order",
    "prepare",
    "prepare_all",
    "train_tokenizer",
]
