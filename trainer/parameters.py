"""How many parameters a model has, and where: exact, by arithmetic alone. Part of the doorway `trainer.sizing`."""

from __future__ import annotations

from trainer.config.hf_policy import parameter_parts_of
from trainer.config.model import ModelConfig


def parameter_parts(model: ModelConfig) -> dict[str, int]:
    """Parameters by part. A tied head is the token embedding and counts once; a head of its own is a part."""
    if model.arch == "transformers":
        sizes = {key: getattr(model, key) for key in ("d_model", "n_layers", "n_heads", "vocab_size", "max_seq_len")}
        parts = parameter_parts_of(model.transformers, sizes)
        return parts if model.tied_head else {**parts, "head": model.vocab_size * model.d_model}
    D, L, bias, qkv_bias = model.d_model, model.n_layers, int(model.bias), int(model.bias and model.qkv_bias)
    matrices = 3 if model.activation == "swiglu" else 2
    parts = {
        "token_embedding": model.vocab_size * D,
        "position_embedding": model.max_seq_len * D,
        "attention": L * (4 * D * D + qkv_bias * 3 * D + bias * D),
        "mlp": L * (matrices * D * model.d_ff + bias * (model.d_ff + D)),
        "norms": (2 * L + 1) * (1 + bias) * D,
    }
    if model.arch == "modern":  # rotary positions and norms without weights
        del parts["position_embedding"], parts["norms"]
    return parts if model.tied_head else {**parts, "head": model.vocab_size * D}


def num_parameters(model: ModelConfig) -> int:
    """Exactly; for a GPT-2 V·D + T·D + L·(12·D² + 13·D) + 2·D."""
    return sum(parameter_parts(model).values())


def hidden_matrices(model: ModelConfig) -> int:
    """Parameters of the blocks' matrices, biases left out: what Muon keeps one number for, and AdamW two."""
    matrices = 3 if model.activation == "swiglu" else 2
    return model.n_layers * (4 * model.d_model**2 + matrices * model.d_model * model.d_ff)
