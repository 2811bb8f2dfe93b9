"""What a job is predicted to cost on an offer: figures that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.providers.base import Offer
from launcher.renting.ranking import Order, Workload, forecast, workload
from trainer.config import run_config
from trainer.sizing import ASSUMED_MFU, flops_per_token, num_parameters, tokens_per_run

H100 = Offer(
    provider="vast",
    offer_id="h100",
    description="8x H100 SXM",
    gpus=8,
    gpu_name="H100 SXM",
    price_per_hour=17.64,
    disk_per_hour=0.04,
    download_usd_per_gb=0.005,
)
A_DAY_OF_ONE_H100 = 989.4e12 * ASSUMED_MFU * 24 * 3600
WORK = Workload(flops=8 * A_DAY_OF_ONE_H100, gpus=8, home_bytes=100_000_000_000)


def test_hours_and_dollars_follow_from_the_peak_and_the_price() -> None:
    found = forecast(H100, WORK)
    assert found is not None
    assert found.hours == pytest.approx(24)
    assert found.gpu_usd == pytest.approx(24 * 17.60)
    assert found.disk_usd == pytest.approx(24 * 0.04)
    assert found.bandwidth_usd == pytest.approx(100 * 0.005)
    assert found.total == pytest.approx(24 * 17.64 + 0.5)


def test_a_faster_machine_that_costs_more_an_hour_may_be_the_cheaper_one() -> None:
    a100 = replace(H100, offer_id="a100", gpu_name="A100 SXM4", price_per_hour=9.6)
    assert [each.offer.offer_id for each in Order(work=WORK).ranked([a100, H100])] == ["h100", "a100"]
    assert [each.offer.offer_id for each in Order().ranked([a100, H100])] == ["a100", "h100"]


def test_gpus_beyond_what_the_job_uses_are_paid_and_do_nothing() -> None:
    one = Workload(A_DAY_OF_ONE_H100, 1, 0)
    found = forecast(H100, one)
    assert found is not None
    assert found.hours == pytest.approx(24)


def test_a_gpu_with_too_little_memory_for_the_job_stands_after_those_with_enough() -> None:
    work = replace(WORK, gpu_gib=31.0)
    small = replace(H100, offer_id="small", gpu_name="RTX 4090", price_per_hour=0.01, gpu_ram_gib=24.0)
    large, silent = replace(H100, gpu_ram_gib=80.0), replace(H100, offer_id="silent", price_per_hour=18.0)
    ranked = Order(work=work).ranked([small, silent, large])
    assert [each.offer.offer_id for each in ranked] == ["h100", "silent", "small"]
    assert [each.forecast.is_tight for each in ranked if each.forecast] == [False, False, True]


def test_a_gpu_whose_peak_nobody_knows_has_no_forecast_and_stands_last() -> None:
    unknown = replace(H100, offer_id="new", gpu_name="Z9000", price_per_hour=0.01)
    assert forecast(unknown, WORK) is None
    assert [each.offer.offer_id for each in Order(work=WORK).ranked([unknown, H100])] == ["h100", "new"]


def test_the_work_of_a_job_is_its_tokens_times_the_flops_of_one_and_its_checkpoints_come_home() -> None:
    config = run_config(
        {
            "model": {"preset": "gpt2", "vocab_size": 50304},
            "train": {"max_steps": 1001, "global_batch_size": 512, "micro_batch_size": 32},
            "schedule": {"warmup_steps": 10},
            "checkpoint": {"every_steps": 500},
        },
        source="test",
    )
    work = workload(config, 8)
    assert work is not None
    assert work.flops == tokens_per_run(config) * flops_per_token(config.model)
    # fp32 weights and two moments, at steps 500 and 1000 and at the end
    assert work.home_bytes == 3 * 12 * num_parameters(config.model)
    assert work.gpu_gib > 12 * num_parameters(config.model) / 2**30
    assert workload(config, 0) is None, "nobody lists the speed of CPUs"
