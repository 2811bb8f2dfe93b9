"""Reinforcement learning of adapters: the reference is the base with them switched off, and no second model is held."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import torch

from tests.trainer.foreign import write_folder
from tests.trainer.toy_task import column, toy_config, toy_files
from trainer.config import LoraConfig, RunConfig
from trainer.console import Console
from trainer.loop.beginning import policy_to_begin_with
from trainer.loop.distributed import opened_world
from trainer.loop.start import run_stage
from trainer.models.language_model import LanguageModel
from trainer.models.lora import without_adapters
from trainer.stages import open_stage

LORA = "lora={rank: 4, dropout: 0.1}"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_files(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def bases(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("bases")
    run_stage("rgpo", toy_config(toy, root / "ours", "train.max_steps=2"))
    return {"ours": str(root / "ours"), "gpt2": f"hf:{write_folder(root / 'gpt2', 'gpt2')}"}


def config_of(toy: Path, out_dir: Path, stage: str, base: str, *overrides: str) -> RunConfig:
    data = f"data={{path: '{toy / 'prompts.jsonl'}', seq_len: 32}}"
    given = (f"model={{init_from: '{base}', dropout: 0.1}}", data, f"{stage}.beta=0.1", *overrides)
    if stage != "rgpo":
        given = (*given, f"{stage}.epochs=2")
    return toy_config(toy, out_dir, *given)


def models_in_memory() -> int:
    gc.collect()
    return sum(issubclass(type(each), LanguageModel) for each in gc.get_objects())


@pytest.mark.parametrize(("stage", "base"), [("ppo", "ours"), ("grpo", "gpt2"), ("rgpo", "ours")])
def test_it_begins_at_its_reference_and_leaves_it(
    stage: str, base: str, bases: dict[str, str], toy: Path, tmp_path: Path
) -> None:
    run_stage(stage, config_of(toy, tmp_path / "run", stage, bases[base], LORA, "optim.lr=1e-2"))
    kl = column(tmp_path / "run", "kl")
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert abs(kl[-1]) > 1e-5
    if stage != "rgpo":
        assert column(tmp_path / "run", "ratio")[0] == pytest.approx(1, abs=1e-5)
        assert column(tmp_path / "run", "moved_kl")[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("base", ["ours", "gpt2"])
def test_with_adapters_one_model_is_in_memory_and_without_them_two(
    base: str, bases: dict[str, str], toy: Path, tmp_path: Path
) -> None:
    for lora, models in ((LORA, 1), ("lora={rank: 0}", 2)):
        config = config_of(toy, tmp_path / "run", "grpo", bases[base], lora)
        before = models_in_memory()
        with opened_world(config.train) as world:
            stage = open_stage("grpo", config, world, Console(False))
            policy = policy_to_begin_with(config, stage, world, resumes=False)
            assert models_in_memory() - before == models
            del policy, stage


def test_dpo_holds_one_model_too(bases: dict[str, str], tmp_path: Path) -> None:
    pairs = [{"prompt": f"n {i}", "chosen": "yes", "rejected": "no"} for i in range(20)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    config = config_of(tmp_path, tmp_path / "run", "rgpo", bases["gpt2"], LORA)
    before = models_in_memory()
    with opened_world(config.train) as world:
        stage = open_stage("dpo", config, world, Console(False))
        policy = policy_to_begin_with(config, stage, world, resumes=False)
        assert models_in_memory() - before == 1
        first = next(stage.batches(policy))
        assert float(stage.loss(policy.eval(), first).metrics["reward_margin"]) == pytest.approx(0, abs=1e-5)
        del policy, stage


def test_with_its_adapters_off_a_policy_is_its_base_and_then_learns_again(bases: dict[str, str], toy: Path) -> None:
    config = config_of(toy, Path("unused"), "grpo", bases["ours"], LORA)
    with opened_world(config.train) as world:
        stage = open_stage("grpo", config, world, Console(False))
        base, policy = (
            policy_to_begin_with(config.model_copy(update={"lora": lora}), stage, world, resumes=False).eval()
            for lora in (LoraConfig(), config.lora)
        )
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    ids = torch.arange(24).view(2, 12)
    learning = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    adapted = policy(ids).logits
    with without_adapters(policy) as reference:
        assert torch.equal(reference(ids).logits, base(ids).logits)
    assert torch.equal(policy(ids).logits, adapted)
    assert not torch.equal(adapted, base(ids).logits)
    assert {name for name, parameter in policy.named_parameters() if parameter.requires_grad} == learning
