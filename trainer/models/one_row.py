"""GPT-2 once more, for the next token of one text on a CPU in fp32: in NumPy, which comes to the point sooner.

`model` is the network; this computes the same but for the order in which fp32 adds. One token of one text is hundreds
of operations on a few thousand numbers each. The weights stream through the processor's caches in between, so every
operation fetches its own code from memory again, and of that torch has much. Measured on one Zen 4 core, its neighbour
busy, milliseconds of processor time a token, the same packed matrices:

    GPT-2             124M     10M     0.8M
    the network       35.8     5.8     1.21
    here              27.1     3.5     0.28

Large models take as many threads as torch: with two, a quiet machine wrote a token of 124M in 17.8 ms instead of 24.6.
Small ones take one. Two wait for each other hundreds of times a token, which gained 2.2 ms instead of 2.5 with the 10M;
beside other programs it cost 162 ms instead of 12.

Nothing is copied: embeddings, norms and biases are the model's own memory.
"""

# D = d_model, N = heads, H = head dim, S = tokens seen so far, V = vocabulary, O = outputs, I = inputs

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.models.blas_threads import blas_threads
from trainer.models.cache import KVCache
from trainer.models.language_model import Embedding, Linear
from trainer.models.model import GPT, LAYER_NORM_EPS, MLP, Attention, Block
from trainer.models.packed import LongRows, Product

Array = NDArray[np.float32]
Part = Callable[[Array], Array]

LARGE = 2**24
"""Numbers in a model that take more threads than one: 64 MB, more than the caches of most processors."""

_PARTS = {GPT, Block, Attention, MLP, Linear, Embedding, nn.LayerNorm, nn.ModuleList}
"""What the network consists of when nobody has put in anything else, as an adapter."""


def is_plain_gpt2(model: nn.Module) -> bool:
    """Whether this computes what calling the model would: it is as it was built, unwatched, in plain memory."""
    if type(model) is not GPT or torch.is_autocast_enabled("cpu"):
        return False
    parts = list(model.modules())
    if any(type(each) not in _PARTS or each._forward_hooks or each._forward_pre_hooks for each in parts):
        return False
    weights = list(model.parameters())
    is_plain = all(type(each) is nn.Parameter and each.is_cpu and not each.is_inference() for each in weights)
    return is_plain and all(each.dtype == torch.float32 for each in weights)


class OneRow:
    """The logits that follow one token. A module in `packed` multiplies with its packed matrix."""

    def __init__(self, model: GPT, packed: Mapping[nn.Module, Product]) -> None:
        self._tokens, self._positions = _array(model.token_embedding.weight), _array(model.position_embedding.weight)
        self._blocks = [_Block(cast(Block, block), packed) for block in model.blocks]
        self._final_norm = _norm(model.final_norm)
        self._head = _product(packed.get(model.head or model), model.head_weight, None)
        is_large = sum(weight.numel() for weight in model.parameters()) >= LARGE
        self._threads = torch.get_num_threads() if is_large else 1

    def logits(self, new_id: int, cache: KVCache) -> Tensor:
        """(1, V). The token joins those in the cache, which is of one row."""
        with blas_threads(self._threads):
            logits_V = self._logits(new_id, cache)
        cache.length += 1
        return torch.from_numpy(logits_V)[None]

    def _logits(self, new_id: int, cache: KVCache) -> Array:
        start = cache.length
        x_D = self._tokens[new_id] + self._positions[start]
        for block, keys_BNSH, values_BNSH in zip(self._blocks, cache.keys_BNSH, cache.values_BNSH, strict=True):
            x_D = block(x_D, keys_BNSH.numpy()[0], values_BNSH.numpy()[0], start)
        return self._head(self._final_norm(x_D))


class _Block:
    def __init__(self, block: Block, packed: Mapping[nn.Module, Product]) -> None:
        self._attention_norm, self._mlp_norm = _norm(block.attention_norm), _norm(block.mlp_norm)
        linears = (block.attention.qkv, block.attention.proj, block.mlp.up, block.mlp.down)
        products = (_product(packed.get(each), each.weight, each.bias) for each in linears)
        self._qkv, self._proj, self._up, self._down = products
        self._n_heads = block.attention.n_heads

    def __call__(self, x_D: Array, keys_NSH: Array, values_NSH: Array, start: int) -> Array:
        q_NH, k_NH, v_NH = self._qkv(self._attention_norm(x_D)).reshape(3, self._n_heads, -1)
        keys_NSH[:, start], values_NSH[:, start] = k_NH, v_NH
        y_D = _attention(q_NH, keys_NSH[:, : start + 1], values_NSH[:, : start + 1])
        x_D = x_D + self._proj(y_D)
        x_D += self._down(_gelu(self._up(self._mlp_norm(x_D))))
        return x_D


def _attention(q_NH: Array, keys_NSH: Array, values_NSH: Array) -> Array:
    """(N x H): what the newest token takes from all."""
    q_NH *= 1 / math.sqrt(q_NH.shape[-1])
    weights_NS1 = np.matmul(keys_NSH, q_NH[:, :, None])
    weights_NS1 -= np.maximum.reduce(weights_NS1, axis=1, keepdims=True)
    np.exp(weights_NS1, out=weights_NS1)
    y_N1H: Array = np.matmul(weights_NS1.transpose(0, 2, 1), values_NSH)
    y_N1H /= np.add.reduce(weights_NS1, axis=1, keepdims=True)
    return y_N1H.reshape(-1)


def _gelu(x: Array) -> Array:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))) / 2."""
    y = x * x
    y *= 0.044715 * math.sqrt(2 / math.pi)
    y += math.sqrt(2 / math.pi)
    y *= x
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= 0.5
    return y


def _norm(norm: nn.LayerNorm) -> Part:
    weight_D = _array(norm.weight)
    bias_D = None if norm.bias is None else _array(norm.bias)

    def normed(x_D: Array) -> Array:
        y_D: Array = x_D - np.add.reduce(x_D) / len(x_D)
        y_D *= 1 / math.sqrt(y_D.dot(y_D) / len(x_D) + LAYER_NORM_EPS)
        y_D *= weight_D
        if bias_D is not None:
            y_D += bias_D
        return y_D

    return normed


def _product(packed: Product | None, weight_OI: Tensor, bias_O: Tensor | None) -> Part:
    own_OI = _array(packed.weight_OI if isinstance(packed, LongRows) else weight_OI)
    own_O = None if bias_O is None else _array(bias_O)

    def product(x_I: Array) -> Array:
        # Whichever way round the rows lie in memory; NumPy does not look.
        y_O: Array = own_OI.dot(x_I) if own_OI.flags.c_contiguous else x_I.dot(own_OI.T)
        if own_O is not None:
            y_O += own_O
        return y_O

    return product


def _array(weight: Tensor) -> Array:
    array: Array = weight.detach().numpy()
    return array
