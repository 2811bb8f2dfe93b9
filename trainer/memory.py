"""What a training step holds on one GPU, by arithmetic alone. Part of the doorway `trainer.sizing`.

It is what PyTorch allocates, without the CUDA context and fragmentation (add about 1 GiB). Tests hold it against the
bytes of all tensors that are alive at once in real steps: within an eighth, whole or spread over ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.adapted import BYTES_IN_4_BITS, adapter_parameters, inputs_saved, matrix_parameters
from trainer.config.adapters import LoraConfig
from trainer.config.hf_policy import attention_widths
from trainer.config.model import ModelConfig
from trainer.parameters import hidden_matrices, parameter_parts

Precision = Literal["fp32", "bf16", "fp16"]

SLICE_LOGITS = 2**26
"""Logits alive at a time in the loss; trainer.models.loss, which the laptop cannot import, has the same number."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU at the fullest moment of a step, the start of the last backward."""

    weights: int
    gradients: int
    moments: int
    gathered: int
    """Of weights spread over ranks (fsdp): the other ranks' parts of what is at work."""
    casts: int
    """Half-precision copies of the matrices, which autocast makes in each forward and the backward needs; a block that
    is recomputed makes its own anew."""
    activations: int
    """What the blocks keep for their backward."""
    head: int
    """One slice of logits, its softmax in fp32, and the gradients that the loss makes beside them."""
    building: int = 0
    """Of weights spread over ranks: all of them, before they are shared out. Nothing of the above is there then."""

    @property
    def total(self) -> int:
        kept = self.weights + self.gradients + self.moments + self.gathered + self.casts
        return max(kept + self.activations + self.head, self.building)


def memory_estimate(
    model: ModelConfig,
    micro_batch_size: int,
    precision: Precision,
    *,
    seq_len: int | None = None,
    optimizer: Literal["adamw", "muon"] = "adamw",
    activation_checkpointing: bool = False,
    ranks: int = 1,
    accumulates: bool = True,
    lora: LoraConfig | None = None,
) -> MemoryEstimate:
    """Bytes to train with fp32 weights and half precision by autocast.

    With `lora` of a rank the weights stay as they are, and adapters alone have gradients and moments.
    `ranks` share weights, gradients and moments (train.parallel=fsdp); with more than one micro-batch a step
    (`accumulates`) each of them adds up whole gradients all the same. Rows have `seq_len` tokens, or all that fit.
    """
    if lora is not None and lora.rank:
        tokens = micro_batch_size * (seq_len or model.max_seq_len)
        return _adapted_estimate(model, lora, tokens, precision, activation_checkpointing)
    parts = parameter_parts(model)
    parameters, hidden = sum(parts.values()), hidden_matrices(model)
    moments = 8 * parameters - (4 * hidden if optimizer == "muon" else 0)
    tokens = micro_batch_size * (seq_len or model.max_seq_len)
    head = _head_bytes(model, tokens, precision)
    activations = _activation_bytes(model, tokens, precision, activation_checkpointing)
    shared = ranks > 1
    return MemoryEstimate(
        weights=_share(4 * parameters, ranks),
        gradients=4 * parameters if accumulates else _share(4 * parameters, ranks),
        moments=_share(moments, ranks),
        gathered=_gathered_bytes(model, parts, ranks) if shared else 0,
        casts=0 if precision == "fp32" else 2 * _cast_parameters(model, parts, activation_checkpointing),
        activations=activations,
        head=head,
        building=4 * parameters + _share(4 * parameters, ranks) if shared else 0,
    )


def _adapted_estimate(
    model: ModelConfig, lora: LoraConfig, tokens: int, precision: Precision, recomputed: bool
) -> MemoryEstimate:
    """A frozen base, whole on every GPU, and what learns beside it."""
    parts, learning = parameter_parts(model), adapter_parameters(model, lora)
    in_4_bits = matrix_parameters(model) if lora.quantize == "4bit" else 0
    cast = _cast_parameters(model, parts, recomputed) - (in_4_bits // model.n_layers if recomputed else in_4_bits)
    return MemoryEstimate(
        weights=4 * (sum(parts.values()) - in_4_bits + learning) + int(BYTES_IN_4_BITS * in_4_bits),
        gradients=4 * learning,
        moments=8 * learning,
        gathered=0,
        casts=0 if precision == "fp32" else 2 * (cast + learning),
        activations=_activation_bytes(
            model, tokens, precision, recomputed, inputs_saved(model, lora, _width(precision))
        ),
        head=_head_bytes(model, tokens, precision, is_frozen=True),
    )


def checkpoint_bytes(model: ModelConfig, optimizer: Literal["adamw", "muon"], lora: LoraConfig | None = None) -> int:
    """Weights and moments, whole, as a checkpoint has them however many ranks wrote it; of adapters theirs alone."""
    if lora is not None and lora.rank:
        return 12 * adapter_parameters(model, lora)
    estimate = memory_estimate(model, 1, "fp32", optimizer=optimizer)
    return estimate.weights + estimate.moments


def _share(total: int, ranks: int) -> int:
    return -(-total // ranks)


def _per_block(model: ModelConfig, parts: dict[str, int]) -> int:
    return (parts["attention"] + parts["mlp"]) // model.n_layers


def _cast_parameters(model: ModelConfig, parts: dict[str, int], recomputed: bool) -> int:
    """The head's and all blocks', or the one's that is at work."""
    blocks = 1 if recomputed else model.n_layers
    return parts.get("head", parts["token_embedding"]) + blocks * _per_block(model, parts)


def _gathered_bytes(model: ModelConfig, parts: dict[str, int], ranks: int) -> int:
    """What is in no block stays together through the step; of the blocks, the one at work and the next."""
    per_block = _per_block(model, parts)
    outside = sum(parts.values()) - model.n_layers * per_block
    whole = 4 * (outside + min(2, model.n_layers) * per_block)
    return whole - _share(whole, ranks)


def _head_bytes(model: ModelConfig, tokens: int, precision: Precision, *, is_frozen: bool = False) -> int:
    width = _width(precision)
    made = ((0 if is_frozen else 4 * model.vocab_size) + width * tokens) * model.d_model
    if precision == "fp16":  # all logits, their logarithms and gradients: the loss scale is not known in time to slice
        return tokens * model.vocab_size * (width + 4 + 4) + made
    return _sliced_bytes(model, tokens, width) + made


def _sliced_bytes(model: ModelConfig, tokens: int, width: int) -> int:
    return min(tokens * model.vocab_size, SLICE_LOGITS) * (width + 4)


def _activation_bytes(model: ModelConfig, tokens: int, precision: Precision, recomputed: bool, beside: int = 0) -> int:
    """Recomputing keeps each block's input, and everything of the one block that is at it when the slice is gone.

    `beside`: what adapters add to a token's bytes in a block.
    """
    width = _width(precision)
    block = tokens * (_block_bytes_per_token(model, width) + beside)
    last_norm = tokens * (4 + width) * model.d_model
    if not recomputed:
        return model.n_layers * block + last_norm
    inputs = model.n_layers * 4 * tokens * model.d_model
    return inputs + last_norm + max(0, block - _sliced_bytes(model, tokens, width))


def _block_bytes_per_token(model: ModelConfig, width: int) -> int:
    """Two norm inputs in fp32; two normed, q, k, v and attended in the compute dtype; what the MLP keeps.

    `modern` keeps queries and keys once more rotated in fp32 and once more normed.
    """
    if model.arch == "transformers":
        return _foreign_block_bytes_per_token(model, width)
    D, inside = model.d_model, model.d_ff * width
    dropout_masks = 2 if model.dropout else 0
    mlp = {"gelu": 2, "relu2": 2, "swiglu": 4}[model.activation] * inside
    rotated = 2 * (4 + 4) * D if model.arch == "modern" else 0
    return D * (2 * 4 + 6 * width + dropout_masks) + mlp + rotated


def _foreign_block_bytes_per_token(model: ModelConfig, width: int) -> int:
    """As transformers writes GPT-2, whose GELU keeps four steps; and Llama's family, taken for all others.

    There each norm keeps its input and its result in fp32, and every product with that a copy in half precision.
    """
    D, settings, inside = model.d_model, model.transformers, 4 * model.d_ff * width
    if "n_embd" in settings:
        return D * (2 * 4 + 6 * width + (2 if model.dropout else 0)) + inside
    copies = 5 * width if width < 4 else 0
    return D * (2 * (4 + 4) + copies) + 2 * width * sum(attention_widths(settings, D, model.n_heads)) + inside


def _width(precision: Precision) -> int:
    return 4 if precision == "fp32" else 2
