"""What a step holds, by arithmetic, against the tensors that are alive in real steps, whole and spread over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig

from tests.trainer.foreign import write_folder
from tests.trainer.live_memory import LiveMemory
from trainer.adapted import matrix_parameters
from trainer.config import LoraConfig, ModelConfig, OptimConfig, TrainConfig, run_config
from trainer.config.hf_policy import section_of_settings
from trainer.loop.distributed import World, opened_world
from trainer.loop.optim import make_optimizer
from trainer.loop.wrapping import no_reduction, wrapped
from trainer.memory import MemoryEstimate, checkpoint_bytes, memory_estimate
from trainer.models import attention
from trainer.models.build import build_model
from trainer.models.lora import add_lora
from trainer.plan import plan_text, size_text_of
from trainer.sizing import adapter_parameters, flops_per_token, memory_of, parameter_parts, training_plan

MODEL = ModelConfig(d_model=128, n_layers=4, n_heads=2, max_seq_len=128, vocab_size=1000)
ROWS = 4
MODERN = MODEL.model_copy(update={"arch": "modern", "activation": "swiglu", "bias": False, "qkv_bias": False})
XL = ModelConfig(preset="gpt2-xl")
_ENDS = {"bos_token_id": 0, "eos_token_id": 0}
LLAMA = LlamaConfig(
    hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, vocab_size=1000, tie_word_embeddings=True, **_ENDS,
)  # fmt: skip
GPT2 = GPT2Config(n_embd=128, n_layer=4, n_head=2, n_positions=128, vocab_size=1000, **_ENDS)
WHOLE = LoraConfig()
BIASES_OF_GPT2 = 2 * (3 * 32 + 32 + 4 * 32 + 32)


@contextmanager
def world_of(ranks: int, train: TrainConfig) -> Iterator[World]:
    """This process as the first of `ranks`, the others being silent: what they would send is not waited for."""
    with opened_world(train) as world:
        if ranks > 1:
            dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
            world.num_processes = ranks
        yield world  # its end leaves the group


def measured(
    ranks: int, train: TrainConfig, kind: str, accumulation: int, config: ModelConfig = MODEL, lora: LoraConfig = WHOLE
) -> int:
    """The most bytes that were alive at once in the second step."""
    with world_of(ranks, train) as world:
        torch.manual_seed(0)
        model = build_model(config)
        if lora.rank:
            add_lora(model, lora, "base")
        policy = wrapped(model, world, train)
        optimizer = make_optimizer(model, OptimConfig.model_validate({"kind": kind}))
        ids_BT = torch.randint(1000, (ROWS, 128))

        def backward() -> None:
            policy(ids_BT, ids_BT).loss_sum.backward()

        def step() -> None:
            with no_reduction(policy, world) if ranks > 1 else nullcontext():
                for _ in range(accumulation - 1):
                    backward()
            backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        step()
        kept = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        with LiveMemory([*model.parameters(), *kept]) as live:
            step()
    return live.peak


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(
    ("ranks", "precision", "kind", "accumulation"),
    [(1, "fp32", "adamw", 2), (1, "bf16", "muon", 2), (4, "fp32", "adamw", 1), (4, "bf16", "adamw", 2)],
)
def test_a_step_holds_what_was_estimated(
    ranks: int, precision: str, kind: str, accumulation: int, recomputed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_FP32_UP_TO_KEYS", 0)  # as on a GPU
    train = {"precision": precision, "activation_checkpointing": recomputed, "device": "cpu"}
    train |= {"parallel": "fsdp", "micro_batch_size": ROWS, "global_batch_size": ROWS * ranks * accumulation}
    sections = {"model": MODEL.model_dump(), "data": {"tokenizer": {"kind": "bytes"}}, "optim": {"kind": kind}}
    config = run_config({**sections, "train": train}, source="test")
    estimate = memory_of(config, config.train.precision, ranks)  # type: ignore[arg-type]  # never `auto` here
    assert measured(ranks, config.train, kind, accumulation) == pytest.approx(estimate.total, rel=0.125)


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_step_of_transformers_own_networks_holds_what_was_estimated(
    network: PreTrainedConfig, precision: str, recomputed: bool, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_config(network).save_pretrained(tmp_path)
    model = ModelConfig(init_from=f"hf:{tmp_path}")
    train = {"precision": precision, "activation_checkpointing": recomputed, "device": "cpu", "micro_batch_size": ROWS}
    estimate = memory_estimate(model, ROWS, precision, activation_checkpointing=recomputed)  # type: ignore[arg-type]
    found = measured(1, TrainConfig.model_validate(train), "adamw", 1, model)
    assert found == pytest.approx(estimate.total, rel=0.125)


@pytest.mark.parametrize(
    ("model", "precision", "targets", "recomputed"),
    [
        (MODEL, "fp32", (), False),
        (MODEL, "bf16", ("qkv",), False),
        (MODERN, "bf16", (), False),
        (MODERN, "fp32", ("mlp.up", "down"), True),
    ],
)
def test_a_step_of_adapters_holds_what_was_estimated(
    model: ModelConfig, precision: str, targets: tuple[str, ...], recomputed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_FP32_UP_TO_KEYS", 0)  # as on a GPU
    lora = LoraConfig(rank=8, targets=targets)
    train = TrainConfig.model_validate(
        {"precision": precision, "activation_checkpointing": recomputed, "device": "cpu", "micro_batch_size": ROWS}
    )
    estimate = memory_estimate(model, ROWS, precision, lora=lora, activation_checkpointing=recomputed)  # type: ignore[arg-type]
    assert measured(1, train, "adamw", 1, model, lora) == pytest.approx(estimate.total, rel=0.125)


@pytest.mark.parametrize("targets", [(), ("attn.c_proj", "c_fc"), ("q_proj", "v_proj")])
def test_what_learns_is_counted_as_peft_makes_it(targets: tuple[str, ...], tmp_path: Path) -> None:
    kind = "gpt2" if "c_fc" in targets else "llama"
    config = ModelConfig(init_from=f"hf:{write_folder(tmp_path / 'base', kind)}")
    lora = LoraConfig(rank=4, targets=targets)
    policy = build_model(config)
    add_lora(policy, lora, config.init_from)
    learning = sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
    assert adapter_parameters(config, lora) == learning
    assert matrix_parameters(config) == sum(parameter_parts(config)[part] for part in ("attention", "mlp")) - (
        BIASES_OF_GPT2 if kind == "gpt2" else 0
    )


def test_adapters_cost_little_beside_a_frozen_base() -> None:
    lora = LoraConfig(rank=16)
    learning = 48 * 16 * (1600 * 4 + 1600 * 2 + 1600 * 5 + 1600 * 5)
    assert adapter_parameters(XL, lora) == learning
    frozen, whole = estimated(lora=lora), estimated()
    assert (frozen.gradients, frozen.moments) == (4 * learning, 8 * learning)
    assert frozen.weights == whole.weights + 4 * learning
    assert checkpoint_bytes(XL, "adamw", lora) == 12 * learning
    in_4_bits = estimated(lora=lora.model_copy(update={"quantize": "4bit"}))
    matrices = 48 * 12 * 1600**2
    assert frozen.weights - in_4_bits.weights == pytest.approx(matrices * (4 - 4.127 / 8), abs=1)
    per_token = flops_per_token(XL), flops_per_token(XL, lora)
    assert per_token[0] - per_token[1] == 2 * (1_557_611_200 - 1024 * 1600) - 6 * learning


def test_plans_of_adapters_say_so() -> None:
    sections = {"model": {"init_from": "hf:somebody/some-gpt2", "arch": "transformers"}, "lora": {"rank": 8}}
    shape = {
        "model_type": "gpt2",
        "n_embd": 1600,
        "n_layer": 48,
        "n_head": 25,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    sections["model"] |= {**section_of_settings(shape), "init_from": "hf:somebody/some-gpt2"}
    config = run_config(sections, source="test")
    plan = training_plan(config)
    assert plan.checkpoint_bytes == 12 * adapter_parameters(config.model, config.lora)
    assert "in bf16, adapters of rank 8 alone learn: weights" in plan_text(plan)
    page = size_text_of(config)
    assert f"adapters beside them {adapter_parameters(config.model, config.lora):>15,}" in page


def estimated(**how: object) -> MemoryEstimate:
    return memory_estimate(XL, 4, "bf16", **how)  # type: ignore[arg-type]


def test_ranks_share_weights_and_moments_and_gradients_where_nothing_is_added_up() -> None:
    whole, spread = estimated(), estimated(ranks=8, accumulates=False)
    assert spread.weights == -(-whole.weights // 8)
    assert spread.moments == -(-whole.moments // 8)
    assert spread.gradients == -(-whole.gradients // 8)
    assert (spread.activations, spread.head) == (whole.activations, whole.head)
    assert estimated(ranks=8).gradients == whole.gradients
    assert whole.gathered == whole.building == 0


def test_what_is_gathered_is_all_but_the_blocks_and_two_of_those() -> None:
    per_block = 12 * 1600**2 + 9 * 1600
    outside = 1_557_611_200 - 48 * per_block
    assert estimated(ranks=8).gathered == pytest.approx(4 * (outside + 2 * per_block) * 7 / 8, rel=1e-6)


def test_a_model_whose_step_is_small_must_still_be_built_whole() -> None:
    step = estimated(ranks=64, accumulates=False, activation_checkpointing=True)
    assert step.total == step.building == 4 * 1_557_611_200 * 65 // 64
    assert replace(step, building=0).total < step.building


def test_shorter_rows_take_less() -> None:
    assert estimated(seq_len=512).activations * 2 == estimated().activations


def test_fp16_holds_all_logits_and_the_other_formats_a_slice() -> None:
    tokens = 4 * 1024
    whole, sliced = memory_estimate(XL, 4, "fp16").head, memory_estimate(XL, 4, "bf16").head
    assert whole - sliced == 10 * tokens * 50257 - 6 * 2**26


def test_a_checkpoint_is_whole_however_many_ranks_share_it() -> None:
    config = run_config({"model": {"preset": "gpt2-xl"}, "train": {"parallel": "fsdp"}}, source="test")
    assert training_plan(config, 4).checkpoint_bytes == checkpoint_bytes(XL, "adamw") == 12 * 1_557_611_200


def test_plans_say_what_makes_a_step_small() -> None:
    train = {"parallel": "fsdp", "activation_checkpointing": True, "global_batch_size": 64}
    config = run_config({"model": {"preset": "gpt2-xl"}, "train": train}, source="test")
    assert "in bf16, weights spread over 8, blocks computed again: weights 742.7 MiB" in plan_text(
        training_plan(config, 8)
    )
    page = size_text_of(config, 8)
    assert "on each of 8 GPUs, weights spread over 8, blocks computed again" in page
    (fits,) = (line for line in page.splitlines() if line.startswith("fits in bf16"))
    assert "RTX 3080" in fits
    (alone,) = (line for line in size_text_of(config).splitlines() if line.startswith("fits in bf16"))
    assert "RTX 3080" not in alone
