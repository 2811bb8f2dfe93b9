"""GPT-2: the whole network in one page.

Exactly the published architecture (tanh GELU, learned positions, tied head,
LayerNorm eps 1e-5 before each part), so that weights come from and go to
`transformers` unchanged in value; the names here are our own and GPT-2's live
in `gpt2_weights`. Two ways through one `forward`: with labels it returns the
summed loss and never makes a (B, T, V) tensor, without them it returns logits.
It refuses to know about optimizers, devices, files and sampling.
"""

# B = sequences, T = tokens, D = d_model, N = heads, H = head dim, S = tokens seen so far, V = vocabulary

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.model import ModelConfig
from trainer.models.loss import linear_cross_entropy

LAYER_NORM_EPS = 1e-5
INIT_STD = 0.02


class GPTOutput(NamedTuple):
    """One of the two. A tuple, because DDP, FSDP and torch.compile look for tensors in tuples."""

    logits: Tensor | None = None
    """(B, T, V), in the dtype the model computes in; None where labels were given."""
    loss_sum: Tensor | None = None
    """fp32 scalar, summed over the labels that are not IGNORE_INDEX; None where no labels were given."""


class KVCache:
    """Keys and values of the tokens seen so far, of every block, in memory taken once."""

    def __init__(self, config: ModelConfig, batch_size: int, *, dtype: torch.dtype, device: torch.device) -> None:
        shape = (config.n_layers, batch_size, config.n_heads, config.max_seq_len, config.d_model // config.n_heads)
        self.keys_LBNSH = torch.empty(shape, dtype=dtype, device=device)
        self.values_LBNSH = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def clear(self) -> None:
        """Forget every token; the memory stays."""
        self.length = 0

    def extended(self, layer: int, keys_BNTH: Tensor, values_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        """Store the newest tokens of one layer and return all of its tokens. `length` moves when the last layer did."""
        end = self.length + keys_BNTH.shape[2]
        self.keys_LBNSH[layer, :, :, self.length : end] = keys_BNTH
        self.values_LBNSH[layer, :, :, self.length : end] = values_BNTH
        if layer == self.keys_LBNSH.shape[0] - 1:
            self.length = end
        dtype = keys_BNTH.dtype
        return self.keys_LBNSH[layer, :, :, :end].to(dtype), self.values_LBNSH[layer, :, :, :end].to(dtype)


class Linear(nn.Linear):
    """A linear layer that leaves its weights undrawn: GPT draws them all, once, in a fixed order."""

    def reset_parameters(self) -> None:
        pass


class Embedding(nn.Embedding):
    """A table that leaves its rows undrawn, for the same reason."""

    def reset_parameters(self) -> None:
        pass


class Attention(nn.Module):
    """Causal self-attention over all heads at once."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_heads, self.dropout = layer, config.n_heads, config.dropout
        self.qkv = Linear(config.d_model, 3 * config.d_model, bias=config.bias)
        self.proj = Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, x_BTD: Tensor, cache: KVCache | None) -> Tensor:
        B, T, D = x_BTD.shape
        qkv_BT3NH = self.qkv(x_BTD).view(B, T, 3, self.n_heads, D // self.n_heads)
        q_BNTH, k_BNSH, v_BNSH = (part.transpose(1, 2) for part in qkv_BT3NH.unbind(2))
        if cache is not None:
            k_BNSH, v_BNSH = cache.extended(self.layer, k_BNSH, v_BNSH)
        y_BNTH = self._attend(q_BNTH, k_BNSH, v_BNSH)
        y_BTD: Tensor = self.proj(y_BNTH.transpose(1, 2).reshape(B, T, D))
        return F.dropout(y_BTD, self.dropout, self.training)

    def _attend(self, q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor) -> Tensor:
        T, S = q_BNTH.shape[2], k_BNSH.shape[2]
        mask_TS = None
        if 1 < T < S:  # SDPA's is_causal counts from the first key, ours ends at the last one
            mask_TS = torch.ones(T, S, dtype=torch.bool, device=q_BNTH.device).tril(S - T)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            q_BNTH, k_BNSH, v_BNSH, attn_mask=mask_TS, dropout_p=dropout, is_causal=T == S
        )


class MLP(nn.Module):
    """Four times as wide inside, tanh GELU between."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.up = Linear(config.d_model, 4 * config.d_model, bias=config.bias)
        self.down = Linear(4 * config.d_model, config.d_model, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        # GPT-2's GELU is the tanh approximation; the exact one moves logits by 6e-4.
        return F.dropout(self.down(F.gelu(self.up(x_BTD), approximate="tanh")), self.dropout, self.training)


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream after a norm of its own."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPS, bias=config.bias)
        self.attention = Attention(config, layer)
        self.mlp_norm = nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPS, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, cache: KVCache | None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), cache)
        y_BTD: Tensor = x_BTD + self.mlp(self.mlp_norm(x_BTD))
        return y_BTD


class GPT(nn.Module):
    """A GPT-2 of any size. Its initial weights are drawn from torch's global generator: seed it first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.d_model)
        self.position_embedding = Embedding(config.max_seq_len, config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.final_norm = nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPS, bias=config.bias)
        self._draw_weights()

    def forward(
        self,
        ids_BT: Tensor,
        labels_BT: Tensor | None = None,
        *,
        positions_BT: Tensor | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
    ) -> GPTOutput:
        """The summed loss where labels are given, else the logits (of the last token alone with `last_only`).

        Labels are already shifted: `labels_BT[b, t]` is what should follow `ids_BT[b, t]`, or IGNORE_INDEX.
        With a cache, `ids_BT` are the tokens after those it holds.
        """
        x_BTD = self._hidden(ids_BT, positions_BT, cache)
        if labels_BT is not None:
            loss_sum = linear_cross_entropy(x_BTD.flatten(0, 1), self.token_embedding.weight, labels_BT.flatten())
            return GPTOutput(loss_sum=loss_sum)
        if last_only:
            x_BTD = x_BTD[:, -1:]
        return GPTOutput(logits=F.linear(x_BTD, self.token_embedding.weight))

    def _hidden(self, ids_BT: Tensor, positions_BT: Tensor | None, cache: KVCache | None) -> Tensor:
        """The residual stream after the last norm, (B, T, D)."""
        start = cache.length if cache is not None else 0
        end = start + ids_BT.shape[1]
        assert end <= self.config.max_seq_len, f"{end} tokens, the model has {self.config.max_seq_len} positions"
        if positions_BT is None:
            positions_BT = torch.arange(start, end, device=ids_BT.device)
        x_BTD = self.token_embedding(ids_BT) + self.position_embedding(positions_BT)
        x_BTD = F.dropout(x_BTD, self.config.dropout, self.training)
        for block in self.blocks:
            x_BTD = block(x_BTD, cache)
        normed_BTD: Tensor = self.final_norm(x_BTD)
        return normed_BTD

    @torch.no_grad()
    def _draw_weights(self) -> None:
        """Radford et al. 2019, section 2.3: normal, and what adds to the residual stream scaled by its depth."""
        residual_std = INIT_STD / math.sqrt(2 * self.config.n_layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                into_residual = name.endswith(("attention.proj.weight", "mlp.down.weight"))
                parameter.normal_(0.0, residual_std if into_residual else INIT_STD)
            elif name.endswith("bias"):
                parameter.zero_()
