"""GPT-2: the whole network in one page.

Exactly the published architecture (tanh GELU, learned positions, tied head,
LayerNorm eps 1e-5 before each part), so that weights come from and go to
`transformers` unchanged in value; the names here are our own and GPT-2's live
in `gpt2_weights`. Three things may differ from the published one, where the
configuration says so: no biases, no biases of queries, keys and values, and a
head of its own.
"""

# B = sequences, T = tokens, D = d_model, N = heads, H = head dim

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.model import ModelConfig
from trainer.models.attention import attention
from trainer.models.cache import KVCache
from trainer.models.language_model import Context, Embedding, GPTOutput, LanguageModel, Linear, dropped

__all__ = ["GPT", "INIT_STD", "LAYER_NORM_EPS", "GPTOutput", "KVCache"]

LAYER_NORM_EPS = 1e-5
INIT_STD = 0.02


class Attention(nn.Module):
    """Causal self-attention over all heads at once."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_heads, self.dropout = layer, config.n_heads, config.dropout
        self.qkv = Linear(config.d_model, 3 * config.d_model, bias=config.bias and config.qkv_bias)
        self.proj = Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        B, T, D = x_BTD.shape
        qkv_BT3NH = self.qkv(x_BTD).view(B, T, 3, self.n_heads, D // self.n_heads)
        q_BNTH, k_BNSH, v_BNSH = (part.transpose(1, 2) for part in qkv_BT3NH.unbind(2))
        if context.cache is not None:
            k_BNSH, v_BNSH = context.cache.extended(self.layer, k_BNSH, v_BNSH)
        dropout = self.dropout if self.training else 0.0
        y_BNTH = attention(q_BNTH, k_BNSH, v_BNSH, mask_B1TS=context.mask_B1TS, dropout=dropout)
        y_BTD: Tensor = self.proj(y_BNTH.transpose(1, 2).reshape(B, T, D))
        return dropped(y_BTD, self.dropout, self.training)


class MLP(nn.Module):
    """Four times as wide inside, tanh GELU between."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.up = Linear(config.d_model, config.d_ff, bias=config.bias)
        self.down = Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        # GPT-2's GELU is the tanh approximation; the exact one moves logits by 6e-4.
        return dropped(self.down(F.gelu(self.up(x_BTD), approximate="tanh")), self.dropout, self.training)


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream after a norm of its own."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPS, bias=config.bias)
        self.attention = Attention(config, layer)
        self.mlp_norm = nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPS, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), context)
        y_BTD: Tensor = x_BTD + self.mlp(self.mlp_norm(x_BTD))
        return y_BTD


class GPT(LanguageModel):
    """A GPT-2 of any size."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.position_embedding = Embedding(config.max_seq_len, config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.final_norm = nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPS, bias=config.bias)
        self._draw_weights()

    def embedded(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        x_BTD = self.token_embedding(ids_BT) + self.position_embedding(positions_BT)
        return dropped(x_BTD, self.config.dropout, self.training)

    def normed(self, x_BTD: Tensor) -> Tensor:
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
