"""Keys and values of the tokens seen so far, so that each new one costs one forward of one token."""

# B = sequences, T = tokens, N = heads, H = head dim, S = tokens seen so far, L = blocks

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config.model import ModelConfig


class KVCache:
    """Keys and values of the tokens seen so far, of every block, in memory taken once."""

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        capacity: int | None = None,
    ) -> None:
        length = min(capacity or config.max_seq_len, config.max_seq_len)
        shape = (batch_size, config.n_heads, length, config.d_model // config.n_heads)
        self.keys_BNSH = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.n_layers)]
        self.values_BNSH = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.n_layers)]
        self.length = 0

    def clear(self) -> None:
        """Forget every token; the memory stays."""
        self.length = 0

    def keep(self, rows_B: Tensor) -> None:
        """Go on with these rows alone, in this order."""
        self.keys_BNSH = [keys[rows_B] for keys in self.keys_BNSH]
        self.values_BNSH = [values[rows_B] for values in self.values_BNSH]

    def extended(self, layer: int, keys_BNTH: Tensor, values_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        """Store the newest tokens of one layer and return all of its tokens. `length` moves when the last layer did."""
        start, num_new = self.length, keys_BNTH.shape[2]
        end = start + num_new
        if layer == len(self.keys_BNSH) - 1:
            self.length = end
        kept = self.keys_BNSH[layer], self.values_BNSH[layer]
        for part, new in zip(kept, (keys_BNTH, values_BNTH), strict=True):
            part.narrow(2, start, num_new).copy_(new)
        keys, values = (part.narrow(2, 0, end) for part in kept)
        return keys.to(keys_BNTH.dtype), values.to(values_BNTH.dtype)
