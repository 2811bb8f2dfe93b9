"""LoRA by PEFT on our networks and on those of transformers: what learns, what is saved, whose base it is."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.trainer.foreign import write_folder
from tests.trainer.test_hf_policy import config_of as hf_config_of
from tests.trainer.tiny import checkpoint
from tests.trainer.tiny import rows as metrics_of
from trainer.checkpoints.adapters import base_sha256, read_adapter
from trainer.cli.program import main
from trainer.config import ConfigError, LoraConfig, ModelConfig, RunConfig, run_config
from trainer.errors import CheckpointError, EngineError, ExitCode
from trainer.loop.start import run_stage
from trainer.models.build import build_model
from trainer.models.init_from import base_of, initial_weights
from trainer.models.language_model import LanguageModel
from trainer.models.lora import add_lora, without_adapters
from trainer.models.policies import open_policy
from trainer.models.quantized import quantized_policy

LORA = ("lora.rank=4", "lora.dropout=0.1", "optim.lr=1e-2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    questions = [{"instruction": f"n {i}", "output": str(i % 7)} for i in range(40)]
    pairs = [{"prompt": f"n {i}", "chosen": str(i % 7), "rejected": "no"} for i in range(40)]
    for name, found in (("rows", questions), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, str]:
    """What `model.init_from` may name, of each kind."""
    root = tmp_path_factory.mktemp("bases")
    model = {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 96}
    config = {
        "out_dir": str(root / "ours"),
        "model": model,
        "data": {"path": str(data / "rows.jsonl"), "tokenizer": {"kind": "bytes"}},
        "train": {"max_steps": 1, "global_batch_size": 2, "micro_batch_size": 2, "precision": "fp32", "device": "cpu"},
        "schedule": {"warmup_steps": 0},
    }
    run_stage("sft", run_config(config, source="test"))
    return {
        "ours": str(root / "ours"),
        "llama": f"hf:{write_folder(root / 'llama', 'llama')}",
        "gpt2": f"hf:{write_folder(root / 'gpt2', 'gpt2')}",
    }


def config_of(out_dir: Path, base: str, rows: Path, *overrides: str) -> RunConfig:
    return hf_config_of(out_dir, Path("unused"), rows, f"model.init_from={base}", *LORA, *overrides)


@pytest.fixture(scope="module")
def runs(bases: dict[str, str], data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    for kind, base in bases.items():
        run_stage("sft", config_of(root / kind, base, data / "rows.jsonl"))
    return {kind: root / kind for kind in bases}


KINDS = pytest.mark.parametrize("kind", ["ours", "llama", "gpt2"])


@KINDS
def test_a_checkpoint_holds_adapters_alone_and_they_have_learnt(runs: dict[str, Path], kind: str) -> None:
    folder = checkpoint(runs[kind], 4)
    assert not (folder / "model.safetensors").exists()
    adapter = read_adapter(folder)
    assert {name.rpartition(".lora_")[2] for name in adapter.weights} == {"A.weight", "B.weight"}
    assert all(tensor.abs().sum() > 0 for tensor in adapter.weights.values())
    assert not [name for name in adapter.weights if "head" in name]
    assert {name.rpartition(".")[0] for name in load_file(folder / "optimizer.safetensors")} == {
        name.replace(".weight", ".default.weight") for name in adapter.weights
    }


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers for it
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_itself_loads_the_folder(runs: dict[str, Path], bases: dict[str, str], kind: str) -> None:
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(bases[kind].removeprefix("hf:"))
    theirs = PeftModel.from_pretrained(base, str(checkpoint(runs[kind], 4) / "adapter")).eval()
    ours, _ = open_policy(checkpoint(runs[kind], 4), torch.device("cpu"))
    ids = torch.randint(0, 256, (2, 12))
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, ours(ids).logits, atol=1e-5)


@KINDS
def test_a_stopped_run_goes_on_to_the_bit(
    runs: dict[str, Path], bases: dict[str, str], data: Path, tmp_path: Path, kind: str
) -> None:
    parts = tmp_path / "parts"
    shutil.copytree(runs[kind], parts)
    shutil.rmtree(checkpoint(parts, 4))
    run_stage("sft", config_of(parts, bases[kind], data / "rows.jsonl"))
    for file in ("adapter/adapter_model.safetensors", "optimizer.safetensors"):
        one, other = (load_file(checkpoint(out, 4) / file) for out in (runs[kind], parts))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert metrics_of(runs[kind]) == metrics_of(parts)


def test_adapters_begin_as_nothing_and_the_base_stays(bases: dict[str, str]) -> None:
    config = ModelConfig(init_from=bases["ours"])
    policy = build_model(config)
    policy.load_state_dict(initial_weights(config))
    ids = torch.randint(0, 256, (2, 12))
    before = policy.eval()(ids).logits
    add_lora(policy, LoraConfig(rank=2, targets=("qkv",)), config.init_from)
    assert torch.equal(policy.eval()(ids).logits, before)
    learning = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert learning
    assert all("qkv.lora_" in name for name in learning)


@KINDS
def test_an_adapter_of_another_base_is_refused(
    runs: dict[str, Path], bases: dict[str, str], data: Path, tmp_path: Path, kind: str
) -> None:
    other = write_folder(tmp_path / "other", "gpt2" if kind == "gpt2" else "llama", seed=1)
    parts = tmp_path / "parts"
    shutil.copytree(runs[kind], parts)
    adapter = checkpoint(parts, 4) / "adapter" / "base.json"
    adapter.write_text(adapter.read_text().replace(read_adapter(checkpoint(parts, 4)).note.base_sha256, "0" * 64))
    with pytest.raises(CheckpointError):
        open_policy(checkpoint(parts, 4), torch.device("cpu"))
    if kind == "ours":
        return
    mine = Path(bases[kind].removeprefix("hf:"))
    kept = (mine / "model.safetensors").read_bytes()
    try:
        (mine / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        with pytest.raises(CheckpointError, match="another base"):
            open_policy(checkpoint(runs[kind], 4), torch.device("cpu"))
    finally:
        (mine / "model.safetensors").write_bytes(kept)


def test_a_base_that_is_gone_is_named(runs: dict[str, Path], bases: dict[str, str]) -> None:
    folder = Path(bases["llama"].removeprefix("hf:"))
    away = folder.rename(folder.with_name("away"))
    try:
        with pytest.raises(CheckpointError, match="the base of the adapter"):
            base_of(checkpoint(runs["llama"], 4))
    finally:
        away.rename(folder)


def test_the_reference_of_dpo_is_the_base(bases: dict[str, str], data: Path, tmp_path: Path) -> None:
    run_stage("dpo", config_of(tmp_path / "dpo", bases["llama"], data / "pairs.jsonl", "lora.dropout=0"))
    found = [row for row in metrics_of(tmp_path / "dpo") if "loss" in row]
    assert found[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert found[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert found[-1]["reward_margin"] > 0


@KINDS
def test_merge_gives_a_checkpoint_with_the_logits_of_the_adapters(
    runs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    assert main(["merge", str(runs[kind]), str(tmp_path / "merged")]) == ExitCode.OK
    one, _ = open_policy(checkpoint(runs[kind], 4), torch.device("cpu"))
    other, _ = open_policy(checkpoint(tmp_path / "merged", 4), torch.device("cpu"))
    ids = torch.randint(0, 256, (2, 12))
    with torch.no_grad():
        assert torch.equal(one(ids).logits, other(ids).logits)
    assert main(["merge", str(tmp_path / "merged"), str(tmp_path / "again")]) == ExitCode.CHECKPOINT
    assert main(["merge", str(runs[kind]), str(tmp_path / "merged")]) == ExitCode.CHECKPOINT  # it is there already


def test_a_run_begins_from_adapters_as_from_any_checkpoint(runs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    run_stage("dpo", config_of(tmp_path / "dpo", str(runs["llama"]), data / "pairs.jsonl", "train.max_steps=2"))
    assert (checkpoint(tmp_path / "dpo", 2) / "adapter").is_dir()


def test_targets_that_are_no_layers_are_refused_with_those_there_are(bases: dict[str, str]) -> None:
    config = ModelConfig(init_from=bases["llama"])
    with pytest.raises(EngineError) as caught:
        add_lora(build_model(config), LoraConfig(rank=2, targets=("qkv",)), config.init_from)
    assert "q_proj" in caught.value.hint
    with pytest.raises(EngineError, match="lm_head"):
        add_lora(build_model(config), LoraConfig(rank=2, targets=("lm_head",)), config.init_from)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_four_bits_without_a_gpu_are_refused_before_a_row_is_read(bases: dict[str, str], tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", bases["llama"], tmp_path / "nowhere.jsonl", "lora.quantize=4bit")
    with pytest.raises(EngineError, match=r"`lora\.quantize=4bit` needs a GPU"):
        run_stage("sft", config)


def test_four_bits_are_for_adapters_of_transformers_policies() -> None:
    for settings, words in (
        ({"model": {"init_from": "gpt2"}, "lora": {"rank": 4, "quantize": "4bit"}}, "policies of transformers"),
        ({"model": {"init_from": "hf:a/b"}, "lora": {"quantize": "4bit"}}, "give lora.rank"),
    ):
        with pytest.raises(ConfigError, match=words):
            run_config(settings, source="test")


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.filterwarnings("default")  # what bitsandbytes and its kernels say on a CPU
def test_adapters_learn_beside_a_base_in_four_bits(tmp_path: Path) -> None:
    """On a CPU, where it is not offered: what is shown here is that the parts fit together."""
    config = wide_enough_for_four_bits(tmp_path / "wide")
    weights, lora, ids = initial_weights(config), LoraConfig(rank=4, quantize="4bit"), torch.randint(0, 99, (2, 12))

    def adapted() -> LanguageModel:
        policy = quantized_policy(config, torch.device("cpu"))
        add_lora(policy, lora, config.init_from, base_sha256(weights))
        policy.state_dict()  # for inference on a CPU bitsandbytes packs weights in another way, and here takes it back
        return policy.train()

    policy = adapted()
    packed = {name for name, parameter in policy.named_parameters() if parameter.dtype == torch.uint8}
    assert {name.split(".")[-3] for name in packed} >= {"q_proj", "down_proj"}
    assert not [name for name in packed if "embed" in name or "head" in name]
    before = policy(ids).logits.detach()
    exact = open_whole(config, weights)(ids).logits.detach()
    assert 0 < float((before - exact).norm()) < 0.4 * float(exact.norm())
    learning = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.AdamW(learning, lr=1e-2), []
    for _ in range(5):
        loss = policy(ids[:, :-1], ids[:, 1:]).loss_sum
        assert loss is not None
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    with without_adapters(policy) as reference:
        assert torch.equal(reference(ids).logits, before)
    saved = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    assert all(".lora_" in name for name in saved)
    again = adapted()
    again.load_state_dict(saved)
    assert torch.equal(again(ids).logits, policy(ids).logits)


def wide_enough_for_four_bits(folder: Path) -> ModelConfig:
    """Rows of whole blocks: NF4 has 64 numbers in one."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=99, max_position_embeddings=32, initializer_range=0.1, **sizes)
    ).save_pretrained(folder)
    return ModelConfig(init_from=f"hf:{folder}")


def open_whole(config: ModelConfig, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    model = build_model(config)
    model.load_state_dict(weights)
    return model.eval()


def test_adapters_without_a_base_are_refused() -> None:
    settings: dict[str, Any] = {"lora": {"rank": 4}}
    with pytest.raises(ConfigError, match=r"model\.init_from"):
        run_config(settings, source="test")
