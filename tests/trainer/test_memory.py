"""What a step holds, by arithmetic, against the tensors that are alive in real steps, whole and spread over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.trainer.live_memory import LiveMemory
from trainer.config import ModelConfig, OptimConfig, TrainConfig, run_config
from trainer.loop.distributed import World, opened_world
from trainer.loop.optim import make_optimizer
from trainer.loop.wrapping import no_reduction, wrapped
from trainer.memory import MemoryEstimate, checkpoint_bytes, memory_estimate
from trainer.models import attention
from trainer.models.build import build_model
from trainer.plan import plan_text, size_text_of
from trainer.sizing import memory_of, training_plan

MODEL = ModelConfig(d_model=128, n_layers=4, n_heads=2, max_seq_len=128, vocab_size=1000)
ROWS = 4
XL = ModelConfig(preset="gpt2-xl")


@contextmanager
def world_of(ranks: int, train: TrainConfig) -> Iterator[World]:
    """This process as the first of `ranks`, the others being silent: what they would send is not waited for."""
    with opened_world(train) as world:
        if ranks > 1:
            dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
            world.num_processes = ranks
        yield world  # its end leaves the group


def measured(ranks: int, train: TrainConfig, kind: str, accumulation: int) -> int:
    """The most bytes that were alive at once in the second step."""
    with world_of(ranks, train) as world:
        torch.manual_seed(0)
        model = build_model(MODEL)
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
