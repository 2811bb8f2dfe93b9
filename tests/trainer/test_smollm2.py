"""SmolLM2-135M itself, where its folder is at hand: `GPTOPS_SMOLLM2=FOLDER`, as transformers wrote it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.config import ModelConfig
from trainer.models.build import build_model
from trainer.models.init_from import initial_weights
from trainer.sizing import num_parameters
from trainer.tokenizer.foreign import loaded_foreign

FOLDER = os.environ.get("GPTOPS_SMOLLM2", "")

pytestmark = pytest.mark.skipif(not Path(FOLDER, "config.json").is_file(), reason="GPTOPS_SMOLLM2 names no folder")


def test_it_computes_and_reads_what_transformers_does() -> None:
    config = ModelConfig(init_from=f"hf:{FOLDER}")
    assert num_parameters(config) == 134_515_008
    tokenizer, text = loaded_foreign(Path(FOLDER)), "Natalia sold 48 clips to her friends.\n"
    ids = torch.tensor([tokenizer.encode(text)])
    assert ids[0].tolist() == AutoTokenizer.from_pretrained(FOLDER).encode(text, add_special_tokens=False)
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()(ids).logits
        policy = build_model(config).eval()
        policy.load_state_dict(initial_weights(config))
        assert torch.allclose(policy(ids).logits, wanted, atol=1e-4)
