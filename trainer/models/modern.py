"""GPT as it is trained today, in one page: rotary positions, RMSNorm, normed queries and keys, ReLU² or SwiGLU.

With ReLU² it computes what transformers' `NanoChatForCausalLM` computes, with SwiGLU what `Qwen3ForCausalLM` does with
norms of weight one; `modern_weights` translates. There are no biases, norms have no weights, and what adds to the
residual stream begins at zero, so that the network begins as the identity at every depth and width.
"""

# B = sequences, T = tokens, D = d_model, N = heads, H = head dim

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.model import ModelConfig
from trainer.models.attention import attention
from trainer.models.language_model import Context, LanguageModel, Linear, dropped

RMS_NORM_EPS = 1e-6


def rms_norm(x: Tensor) -> Tensor:
    """Root mean square one over the last dimension; no weight (Zhang and Sennrich 2019, without the gain)."""
    return F.rms_norm(x, (x.shape[-1],), eps=RMS_NORM_EPS)


def rotated(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Each pair (h, h + H/2) turned by its angle (Su et al. 2021, equation 34, but in halves); fp32."""
    cos, sin = rope
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Attention(nn.Module):
    """Causal self-attention with normed, rotated queries and keys (Henry et al. 2020 for the norm)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_heads, self.dropout = layer, config.n_heads, config.dropout
        self.qkv = Linear(config.d_model, 3 * config.d_model, bias=False)
        self.proj = Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        B, T, D = x_BTD.shape
        qkv_BT3NH = self.qkv(x_BTD).view(B, T, 3, self.n_heads, D // self.n_heads)
        assert context.rope is not None
        # Queries and keys go the same way, and go it together: half as many operations.
        q_BTNH, k_BTNH = rms_norm(rotated(qkv_BT3NH[:, :, :2], context.rope)).unbind(2)
        q_BNTH, k_BNSH, v_BNSH = (part.transpose(1, 2) for part in (q_BTNH, k_BTNH, qkv_BT3NH[:, :, 2]))
        if context.cache is not None:
            k_BNSH, v_BNSH = context.cache.extended(self.layer, k_BNSH, v_BNSH)
        dropout = self.dropout if self.training else 0.0
        y_BNTH = attention(q_BNTH, k_BNSH, v_BNSH, mask_B1TS=context.mask_B1TS, dropout=dropout)
        y_BTD: Tensor = self.proj(y_BNTH.transpose(1, 2).reshape(B, T, D))
        return dropped(y_BTD, self.dropout, self.training)


class _SquaredRelu(torch.autograd.Function):
    """ReLU² with a backward of one product: its slope, 2 relu(x), is zero by itself where relu's is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        slope: Tensor = positive * 2
        return slope.mul_(grad)


def squared_relu(x: Tensor) -> Tensor:
    """relu(x)² (So et al. 2021)."""
    if torch.compiler.is_compiling():  # it fuses by itself
        return F.relu(x).square()
    result: Tensor = _SquaredRelu.apply(x)  # type: ignore[no-untyped-call]
    return result


class SquaredReluMLP(nn.Module):
    """Four times as wide inside, ReLU² between."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.up = Linear(config.d_model, config.d_ff, bias=False)
        self.down = Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return dropped(self.down(squared_relu(self.up(x_BTD))), self.dropout, self.training)


class SwiGluMLP(nn.Module):
    """Gated by a SiLU, 8/3 as wide inside for three matrices instead of two (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.gate = Linear(config.d_model, config.d_ff, bias=False)
        self.up = Linear(config.d_model, config.d_ff, bias=False)
        self.down = Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return dropped(self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD)), self.dropout, self.training)


class Block(nn.Module):
    """Attention, then MLP, each on the normed residual stream and added to it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = SwiGluMLP(config) if config.activation == "swiglu" else SquaredReluMLP(config)

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        x_BTD = x_BTD + self.attention(rms_norm(x_BTD), context)
        y_BTD: Tensor = x_BTD + self.mlp(rms_norm(x_BTD))
        return y_BTD


class ModernGPT(LanguageModel):
    """A GPT of `arch: modern`, of any size."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self._draw_weights()

    def embedded(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        return dropped(rms_norm(self.token_embedding(ids_BT)), self.config.dropout, self.training)

    def rope(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine in fp32, (T, 1, 1, H/2) or (B, T, 1, 1, H/2): the same for queries, keys and every head."""
        head_dim = self.config.d_model // self.config.n_heads
        pair_H = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions_BT.device)
        angles = positions_BT[..., None, None, None].float() * self.config.rope_base ** -(pair_H / head_dim)
        return angles.cos(), angles.sin()

    def normed(self, x_BTD: Tensor) -> Tensor:
        return rms_norm(x_BTD)

    @torch.no_grad()
    def _draw_weights(self) -> None:
        """Matrices keep the scale of their input; outputs of blocks, and a head of its own, begin at zero.

        A tied head at first only repeats its input, with a logit of D times the embedding's scale: 4 here, which costs
        a vocabulary of thousands next to nothing, and leaves the norm's epsilon far below. With a head of its own the
        scale of the embedding means nothing but how fast AdamW can turn it: 0.1 trained better than 1 and 0.03 (240
        steps on tinyshakespeare: validation loss 1.876, 1.893, 1.882).
        """
        d_model = self.config.d_model
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.proj.weight", "mlp.down.weight", "head.weight")):
                parameter.zero_()
            elif name == "token_embedding.weight":
                parameter.normal_(0.0, 0.1 if self.head is not None else 4.0 / d_model)
            else:
                parameter.normal_(0.0, d_model**-0.5)
