"""The smallest policies of transformers that are some, as folders: a Llama and a GPT-2, with a tokenizer over bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

KINDS = ("llama", "gpt2")
_VOCAB = 260


def write_folder(folder: Path, kind: str = "llama", *, seed: int = 0, template: str = "") -> Path:
    """What `save_pretrained` of a model and its tokenizer leave."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(kind))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    _write_tokenizer(folder, template)
    return folder


def _config(kind: str) -> Any:
    if kind == "gpt2":
        return GPT2Config(
            vocab_size=_VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=96, bos_token_id=256, eos_token_id=256
        )
    return LlamaConfig(
        vocab_size=_VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=256,
    )


def _write_tokenizer(folder: Path, template: str) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template:
        (folder / "chat_template.jinja").write_text(template)
