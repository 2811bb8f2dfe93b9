"""Text to rows of tokens.

file or folder ── sources ──▶ texts ── prepare ──▶ shards on disk ── rows ──▶ (n, seq_len + 1) ids, in an order
that is a pure function of (seed, index)
"""

from trainer.data.order import order
from trainer.data.prepare import Progress, prepare
from trainer.data.rows import TokenRows
from trainer.data.shards import ShardSet, open_shards

__all__ = ["Progress", "ShardSet", "TokenRows", "open_shards", "order", "prepare"]
