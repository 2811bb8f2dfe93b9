"""SmolLM2-135M itself, where its folder is at hand: `GPTOPS_SMOLLM2=FOLDER`, as transformers wrote it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainer.toy_task import column, toy_files, toy_settings
from trainer.config import ModelConfig, run_config
from trainer.loop.start import run_stage
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


@pytest.mark.timeout(1200)
def test_the_first_minibatch_has_a_ratio_of_1_and_no_kl(tmp_path: Path) -> None:
    """Prompts of several lengths and a temperature; adapters, which begin as nothing, keep the checkpoints small."""
    toy = toy_files(tmp_path / "toy")
    (toy / "prompts.jsonl").write_text("".join(f'{{"prompt": "{"a big " * (1 + i % 5)}"}}\n' for i in range(20)))
    settings = toy_settings(toy, tmp_path / "run")
    settings["model"] = {"init_from": f"hf:{FOLDER}"}
    settings["data"] = {"path": str(toy / "prompts.jsonl"), "seq_len": 64}
    settings["train"] |= {"max_steps": 2, "global_batch_size": 2, "micro_batch_size": 2}
    settings["rollout"] = {"completions": 4, "max_tokens": 5, "temperature": 0.7}
    given = ("ppo.beta=0.1", "ppo.epochs=1", "lora.rank=4", "eval.num_batches=1")
    run_stage("ppo", run_config(settings, source="test", overrides=given))
    (first, later), kl = column(tmp_path / "run", "moved_kl"), column(tmp_path / "run", "kl")
    assert column(tmp_path / "run", "ratio")[0] == pytest.approx(1, abs=1e-4)
    assert first == pytest.approx(0, abs=1e-8)
    assert kl[0] == pytest.approx(0, abs=1e-3)
    assert later > 1e-6
