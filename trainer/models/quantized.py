"""The base that adapters stand beside: as it is, or with its matrices in 4 bits (QLoRA, Dettmers et al. 2023).

Four bits are NF4 with double quantization by transformers and bitsandbytes, computed in bf16; norms, embeddings and the
head stay in fp32. For policies of transformers only, and on a GPU only: nobody has measured it on anything else. The
hash by which adapters know their base is that of the whole weights, so `merge` and `generate` add them to those.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.config import ModelConfig, RunConfig
from trainer.config.adapters import LoraConfig
from trainer.errors import EngineError
from trainer.models.build import build_model
from trainer.models.hf_folder import hf_folder
from trainer.models.hf_policy import TransformersPolicy, settings_of
from trainer.models.language_model import LanguageModel


def require_quantizer(lora: LoraConfig) -> None:
    """Raises EngineError where `lora` asks for 4 bits and this machine has none."""
    if lora.quantize == "none":
        return
    if not torch.cuda.is_available():
        error = EngineError("`lora.quantize=4bit` needs a GPU", why="there is none here", hint="lora.quantize=none")
    elif importlib.util.find_spec("bitsandbytes") is None:
        why, hint = "it is not installed", "pip install bitsandbytes, or lora.quantize=none"
        error = EngineError("`lora.quantize=4bit` needs the package bitsandbytes", why=why, hint=hint)
    else:
        return
    error.on_every_rank = True
    raise error


def base_model(config: RunConfig, weights: Mapping[str, Tensor], device: torch.device) -> LanguageModel:
    """The network of `config` with the weights of `model.init_from`, which are given, on the device.

    In 4 bits where `lora.quantize` says so. Raises EngineError.
    """
    if config.lora.quantize == "4bit":
        require_quantizer(config.lora)
        return quantized_policy(config.model, device)
    model = build_model(config.model)
    model.load_state_dict(weights)
    return model.to(device)


def quantized_policy(config: ModelConfig, device: torch.device) -> TransformersPolicy:
    """A policy of transformers in 4 bits, frozen. Raises EngineError where transformers cannot load it so."""
    # Late: seconds, for those who have such a policy; PEFT's import brings bitsandbytes.
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(
            hf_folder(config.init_from),
            config=settings_of(config),
            quantization_config=how,
            device_map={"": str(device)},
            dtype=torch.float32,
        )
    except (ImportError, ValueError, RuntimeError) as error:
        raise EngineError(
            f"`{config.init_from}` cannot be loaded in 4 bits",
            why=(str(error).strip().splitlines() or [type(error).__name__])[0],
            hint="lora.quantize=none",
        ) from error
    # Recomputing activations is for `train.activation_checkpointing`, which wraps the blocks of every policy alike.
    prepare: Any = prepare_model_for_kbit_training  # PEFT leaves it untyped
    prepare(network, use_gradient_checkpointing=False)
    return TransformersPolicy(config, network)
