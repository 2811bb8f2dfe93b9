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
        shape = (config.n_layers, batch_size, config.n_heads, length, config.d_model // config.n_heads)
        self.keys_LBNSH = torch.empty(shape, dtype=dtype, device=device)
        self.values_LBNSH = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def clear(self) -> None:
        """Forget every token; the memory stays."""
        self.length = 0

    def keep(self, rows_B: Tensor) -> None:
        """Go on with these rows alone, in this order."""
        self.keys_LBNSH = self.keys_LBNSH[:, rows_B]
        self.values_LBNSH = self.values_LBNSH[:, rows_B]

    def extended(self, layer: int, keys_BNTH: Tensor, values_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        """Store the newest tokens of one layer and return all of its tokens. `length` moves when the last layer did."""
        end = self.length + keys_BNTH.shape[2]
        self.keys_LBNSH[layer, :, :, self.length : end] = keys_BNTH
        self.values_LBNSH[layer, :, :, self.length : end] = values_BNTH
        if layer == self.keys_LBNSH.shape[0] - 1:
            self.length = end
        dtype = keys_BNTH.dtype
        return self.keys_LBNSH[layer, :, :, :end].to(dtype), self.values_LBNSH[layer, :, :, :end].to(dtype)
