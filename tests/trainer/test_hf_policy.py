"""Policies of transformers: the logits are theirs, the losses ours, and a run of one ends in an ordinary checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainer.foreign import KINDS, write_folder
from tests.trainer.tiny import assert_same_run, checkpoint, tensors
from trainer.config import ConfigError, RunConfig, run_config
from trainer.config.hf_policy import section_of
from trainer.config.model import ModelConfig
from trainer.errors import CheckpointError, EngineError
from trainer.evaluation.models import OwnModel
from trainer.loop.start import run_stage
from trainer.models.build import build_model
from trainer.models.export import export
from trainer.models.generate import generate_batch
from trainer.models.hf_policy import TransformersPolicy
from trainer.models.init_from import initial_weights
from trainer.models.loss import IGNORE_INDEX
from trainer.models.policies import open_policy
from trainer.models.sampling import Sampling
from trainer.sizing import num_parameters


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hf")
    return {kind: write_folder(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"instruction": f"n {i}", "output": str(i % 7)}) + "\n" for i in range(40)))
    return path


def config_of(out_dir: Path, folder: Path, rows: Path, *overrides: str) -> RunConfig:
    base: dict[str, Any] = {
        "out_dir": str(out_dir),
        "model": {"init_from": f"hf:{folder}"},
        "data": {"path": str(rows)},
        "train": {"max_steps": 4, "global_batch_size": 4, "micro_batch_size": 2, "precision": "fp32", "device": "cpu"},
        "optim": {"lr": 1e-3},
        "schedule": {"warmup_steps": 1},
        "checkpoint": {"every_steps": 2},
        "eval": {"every_steps": 2, "num_batches": 2},
        "log": {"every_steps": 1},
    }
    return run_config(base, source="test", overrides=overrides)


def opened(folder: Path, **settings: Any) -> TransformersPolicy:
    config = ModelConfig(init_from=f"hf:{folder}", **settings)
    model = build_model(config)
    model.load_state_dict(initial_weights(config))
    assert isinstance(model, TransformersPolicy)
    return model


def theirs(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_loss_and_log_probabilities_are_those_of_transformers(folders: dict[str, Path], kind: str) -> None:
    ours, reference = opened(folders[kind]).eval(), theirs(folders[kind])
    ids, labels = torch.randint(0, 256, (2, 3, 20))
    labels[:, :5] = IGNORE_INDEX
    with torch.no_grad():
        wanted = reference(ids).logits
        assert torch.allclose(ours(ids).logits, wanted, atol=1e-6)
        assert torch.allclose(ours(ids, last_only=True).logits, wanted[:, -1:], atol=1e-6)
        loss = F.cross_entropy(wanted.flatten(0, 1), labels.flatten(), reduction="sum")
        assert torch.allclose(ours(ids, labels).loss_sum, loss, rtol=1e-5)
        assert torch.allclose(-ours(ids, labels, per_token=True).logps.sum(), loss, rtol=1e-5)
        ours._head_is_a_matrix = False  # the way for networks that do more with their logits
        assert torch.allclose(ours(ids, labels).loss_sum, loss, rtol=1e-5)
        assert torch.allclose(-ours(ids, labels, per_token=True).logps.sum(), loss, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_in_a_row_do_not_see_each_other(folders: dict[str, Path], kind: str) -> None:
    ours = opened(folders[kind]).eval()
    ids = torch.randint(0, 256, (2, 20))
    with torch.no_grad():
        together = ours(ids, documents_BT=torch.tensor([[0] * 8 + [1] * 12] * 2)).logits
        assert torch.allclose(together[:, :8], ours(ids[:, :8]).logits, atol=1e-5)
        assert torch.allclose(together[:, 8:], ours(ids[:, 8:]).logits, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_prompts_side_by_side_are_gone_on_with_as_each_alone(folders: dict[str, Path], kind: str) -> None:
    ours, reference = opened(folders[kind]), theirs(folders[kind])
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [200, 3]]
    found = generate_batch(ours, prompts, max_tokens=6, sampling=Sampling(0.0, 0, 1.0, 0))
    for prompt, completion in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            for _ in range(6):
                ids = torch.cat([ids, reference(ids).logits[:, -1:].argmax(-1)], 1)
        assert completion.ids == ids[0, len(prompt) :].tolist()


def test_dropout_is_what_the_configuration_says_and_not_what_the_folder_did(folders: dict[str, Path]) -> None:
    ids = torch.randint(0, 256, (2, 20))
    quiet, loud = opened(folders["gpt2"]).train(), opened(folders["gpt2"], dropout=0.5).train()
    assert torch.equal(quiet(ids).logits, quiet(ids).logits)
    assert not torch.equal(loud(ids).logits, loud(ids).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_known_without_torch(folders: dict[str, Path], kind: str) -> None:
    config = ModelConfig(init_from=f"hf:{folders[kind]}")
    assert num_parameters(config) == sum(p.numel() for p in build_model(config).parameters())


@pytest.fixture(scope="module")
def run(folders: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("run") / "sft"
    run_stage("sft", config_of(out_dir, folders["llama"], rows))
    return out_dir


def test_a_checkpoint_is_read_back_without_the_folder_it_began_from(run: Path, tmp_path: Path) -> None:
    model, tokenizer = open_policy(checkpoint(run, 4), torch.device("cpu"))
    assert tokenizer.kind == "folder"
    assert "network.lm_head.weight" not in tensors(run, 4)  # tied: one tensor, one name
    assert OwnModel(checkpoint(run, 4), torch.device("cpu")).max_seq_len == 96
    ids = torch.randint(0, 256, (2, 12))
    export(run, tmp_path / "exported")
    with torch.no_grad():
        assert torch.allclose(theirs(tmp_path / "exported")(ids).logits, model(ids).logits, atol=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "exported").encode("abc") == tokenizer.encode("abc")


def test_a_stopped_run_goes_on_to_the_bit(run: Path, folders: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "parts", folders["llama"], rows)
    run_stage("sft", config)
    checkpoint(tmp_path / "parts", 4).rename(tmp_path / "away")
    run_stage("sft", config)
    assert_same_run(run, tmp_path / "parts", 4)


def test_a_run_begins_from_a_checkpoint_of_such_a_policy(run: Path, rows: Path, tmp_path: Path) -> None:
    config = config_of(
        tmp_path / "next", run, rows, f"model.init_from={run}", "train.max_steps=1", "schedule.warmup_steps=0"
    )
    assert config.model.arch == "transformers"
    run_stage("sft", config)


def test_an_id_of_the_hub_is_accepted_before_its_sizes_are_known() -> None:
    config = run_config({"model": {"init_from": "hf:owner/name"}, "data": {"seq_len": 4096}}, source="test")
    assert not config.model.is_known


def test_what_is_no_policy_is_refused_with_its_name(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        initial_weights(ModelConfig(init_from=f"hf:{tmp_path}/nothing"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert section_of(f"hf:{tmp_path}") == {"arch": "transformers"}
    with pytest.raises(EngineError, match="bert-of-nowhere"):
        build_model(ModelConfig(init_from=f"hf:{folders['llama']}", transformers={"model_type": "bert-of-nowhere"}))


def test_unsloth_without_a_gpu_is_refused(folders: dict[str, Path]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineError, match="needs a GPU"):
        opened(folders["llama"], backend="unsloth")
    with pytest.raises(ConfigError, match="backend"):
        run_config({"model": {"backend": "unsloth"}}, source="test")


def test_rows_of_several_documents_are_refused_where_attention_has_a_window(folders: dict[str, Path]) -> None:
    policy = opened(folders["llama"])
    settings = {**policy.config.transformers, "sliding_window": 8}
    policy.config = policy.config.model_copy(update={"transformers": settings})
    with pytest.raises(EngineError) as caught:
        policy(torch.zeros(1, 4, dtype=torch.long), documents_BT=torch.zeros(1, 4, dtype=torch.long))
    assert "sft.packing=false" in caught.value.hint
