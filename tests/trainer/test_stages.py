"""The conformance suite of every stage: what the engine may rely on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.tiny import tiny_config
from trainer.config import RunConfig
from trainer.data import ShardSet, prepare
from trainer.errors import CheckpointError
from trainer.models.model import GPT
from trainer.stages.pretrain import PretrainStage

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return tiny_config(tmp_path, "model.dropout=0")


@pytest.fixture
def shards(config: RunConfig, tmp_path: Path) -> ShardSet:
    return prepare(config.data, tmp_path / "data")


@pytest.fixture
def policy(config: RunConfig) -> GPT:
    torch.manual_seed(0)
    return GPT(config.model)


def stage_of(config: RunConfig, shards: ShardSet, rank: int = 0, num_processes: int = 1) -> PretrainStage:
    return PretrainStage(config, shards, rank=rank, num_processes=num_processes, device=CPU)


def taken(stage: PretrainStage, policy: GPT, count: int) -> list[Any]:
    return list(itertools.islice(stage.batches(policy), count))


def test_the_loss_is_a_finite_sum_over_the_units(config: RunConfig, shards: ShardSet, policy: GPT) -> None:
    stage = stage_of(config, shards)
    (batch,) = taken(stage, policy, 1)
    loss = stage.loss(policy, batch).loss_sum
    assert batch.num_units == batch.num_tokens == 2 * 32
    assert loss.dtype == torch.float32
    assert float(loss.detach()) / batch.num_units == pytest.approx(np.log(257), rel=0.05)


def test_the_sums_of_two_batches_are_the_sum_of_both(config: RunConfig, shards: ShardSet, policy: GPT) -> None:
    stage, wide = (
        stage_of(config, shards),
        stage_of(tiny_config(Path(config.out_dir), "train.micro_batch_size=4"), shards),
    )
    parts = [float(stage.loss(policy, batch).loss_sum.detach()) for batch in taken(stage, policy, 2)]
    whole = [float(wide.loss(policy, batch).loss_sum.detach()) for batch in taken(wide, policy, 1)]
    assert sum(parts) == pytest.approx(sum(whole), rel=1e-5)


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_a_step_has_the_same_samples_whatever_the_number_of_ranks(
    config: RunConfig, shards: ShardSet, policy: GPT, num_processes: int
) -> None:
    accumulation = 8 // (2 * num_processes)
    alone = torch.cat([batch.ids_BT for batch in taken(stage_of(config, shards), policy, 8)])
    ranks = [stage_of(config, shards, rank, num_processes) for rank in range(num_processes)]
    streams = [stage.batches(policy) for stage in ranks]
    for step in range(2):
        together = torch.cat([b.ids_BT for stream in streams for b in itertools.islice(stream, accumulation)])
        expected = alone[step * 8 : (step + 1) * 8]
        assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, expected.tolist()))
        assert {stage.state_dict()["next_sample"] for stage in ranks} == {(step + 1) * 8}


def test_a_stage_goes_on_where_its_state_was_taken(config: RunConfig, shards: ShardSet, policy: GPT) -> None:
    stage = stage_of(config, shards)
    stream = stage.batches(policy)
    list(itertools.islice(stream, 3))
    state = stage.state_dict()
    expected = next(stream)
    resumed = stage_of(config, shards)
    resumed.load_state_dict(state)
    (batch,) = taken(resumed, policy, 1)
    assert torch.equal(batch.ids_BT, expected.ids_BT)
    assert torch.equal(batch.labels_BT, expected.labels_BT)


def test_a_stage_goes_on_in_its_second_epoch(config: RunConfig, shards: ShardSet, policy: GPT) -> None:
    stage = stage_of(config, shards)
    rows_per_epoch = (shards.train_tokens - 1) // 32
    stage.load_state_dict({"next_sample": rows_per_epoch, "data": shards.identity})
    first_of_second = taken(stage, policy, 1)[0].ids_BT
    first_of_first = taken(stage_of(config, shards), policy, 1)[0].ids_BT
    assert not torch.equal(first_of_first, first_of_second)


def test_the_state_of_other_data_is_refused(config: RunConfig, shards: ShardSet) -> None:
    with pytest.raises(CheckpointError, match="not the one this run began with"):
        stage_of(config, shards).load_state_dict({"next_sample": 0, "data": "0" * 64})


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_validation_has_the_same_rows_in_as_many_batches_on_every_rank(
    config: RunConfig, shards: ShardSet, num_processes: int
) -> None:
    ranks = [list(stage_of(config, shards, rank, num_processes).validation_batches()) for rank in range(num_processes)]
    assert len({len(batches) for batches in ranks}) == 1
    together = torch.cat([batch.ids_BT for batches in ranks for batch in batches])
    alone = torch.cat([batch.ids_BT for batch in stage_of(config, shards).validation_batches()])
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, alone.tolist()))


def test_it_learns(config: RunConfig, tmp_path: Path) -> None:
    text = tmp_path / "toy.txt"
    text.write_text("abcdefgh" * 400)
    config = tiny_config(tmp_path, f"data.path={text}", "optim.lr=1e-2")
    stage = stage_of(config, prepare(config.data, tmp_path / "toy"))
    torch.manual_seed(0)
    policy = GPT(config.model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    losses = []
    for batch in taken(stage, policy, 60):
        loss = stage.loss(policy, batch).loss_sum / batch.num_units
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 < 5 < losses[0]
