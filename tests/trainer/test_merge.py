"""`merge`: whole weights compute what the adapters computed beside their base, which must be the one they knew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.foreign import write_folder
from tests.trainer.tiny import checkpoint
from trainer import manifest
from trainer.checkpoints.adapters import read_adapter
from trainer.cli.program import main
from trainer.config import LoraConfig, ModelConfig, dump_yaml, load_yaml, run_config
from trainer.errors import ExitCode
from trainer.loop.start import run_stage
from trainer.models.build import build_model
from trainer.models.init_from import base_of
from trainer.models.language_model import LanguageModel
from trainer.models.lora import add_lora
from trainer.models.policies import open_policy

KINDS = ("ours", "llama", "gpt2")


def trained(out_dir: Path, model: dict[str, Any], *overrides: str) -> Path:
    rows = out_dir.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps({"instruction": f"n {i}", "output": str(i % 7)}) + "\n" for i in range(40)))
    config = {
        "out_dir": str(out_dir),
        "model": model,
        "data": {"path": str(rows)},
        "train": {"max_steps": 2, "global_batch_size": 2, "micro_batch_size": 2, "precision": "fp32", "device": "cpu"},
        "optim": {"lr": 1e-2},
        "schedule": {"warmup_steps": 0},
        "checkpoint": {"every_steps": 2},
        "log": {"every_steps": 2},
    }
    run_stage("sft", run_config(config, source="test", overrides=overrides))
    return out_dir


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each kind, a run of two steps with adapters."""
    root = tmp_path_factory.mktemp("runs")
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 96}
    bases = {kind: f"hf:{write_folder(root / f'base-{kind}', kind)}" for kind in KINDS[1:]}
    bases["ours"] = str(trained(root / "base-ours", shape, "data.tokenizer.kind=bytes"))
    return {kind: trained(root / kind, {"init_from": bases[kind]}, "lora.rank=4") for kind in KINDS}


def base_and_adapted(folder: Path) -> tuple[LanguageModel, LanguageModel]:
    """The base of a checkpoint alone, and with PEFT's layers beside it, as it was trained."""
    config = ModelConfig.model_validate(load_yaml(folder / "config.yaml")["model"])
    base, adapted = build_model(config), build_model(config)
    for policy in (base, adapted):
        policy.load_state_dict(base_of(folder))
    add_lora(adapted, LoraConfig(rank=4), config.init_from)
    adapted.load_state_dict(read_adapter(folder).weights)
    return base.eval(), adapted.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_compute_what_the_adapters_did_and_not_what_the_base_does(
    runs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    assert main(["merge", str(runs[kind]), str(tmp_path / "merged")]) == ExitCode.OK
    merged, _ = open_policy(checkpoint(tmp_path / "merged", 2), torch.device("cpu"))
    base, adapted = base_and_adapted(checkpoint(runs[kind], 2))
    ids = torch.arange(24).view(2, 12) * 7 % 256
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-5)
        assert (merged(ids).logits - base(ids).logits).abs().max() > 1e-2
    assert not (checkpoint(tmp_path / "merged", 2) / "adapter").exists()


def test_an_adapter_of_another_base_is_refused_and_nothing_is_written(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(runs["llama"], tmp_path / "run"))
    found = checkpoint(run, 2)
    settings = load_yaml(found / "config.yaml")
    settings["model"]["init_from"] = f"hf:{write_folder(tmp_path / 'other', 'llama', seed=1)}"
    (found / "config.yaml").write_text(dump_yaml(settings))
    (found / manifest.FILE_NAME).unlink()
    manifest.publish(found.rename(found.with_name(f"{found.name}.tmp")))
    assert main(["merge", str(run), str(tmp_path / "merged")]) == ExitCode.CHECKPOINT
    assert "another base" in capsys.readouterr().err
    assert not list(tmp_path.glob("merged/**/*.safetensors"))
