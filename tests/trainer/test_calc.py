"""The two calculating scripts print what sizing, schedule and the published rules compute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config import run_config
from trainer.config.presets import RUN_PRESETS
from trainer.plan import schedule_table, size_text_of
from trainer.schedule import lr_of
from trainer.sizing import memory_estimate, num_parameters
from trainer.suggestion import RATES, advice, suggested_lr

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(SCRIPTS / name), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def test_calc_params_prints_every_part_and_the_gpus_it_fits_on() -> None:
    done = run_script("calc_params", "model.preset=gpt2-xl", "train.micro_batch_size=4")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "1,557,611,200" in done.stdout
    assert "token embedding           80,411,200" in done.stdout
    config = run_config({"model": {"preset": "gpt2-xl"}, "train": {"micro_batch_size": 4}}, source="x")
    total = memory_estimate(config.model, 4, "bf16").total / 2**30
    assert f"{total:.1f} GiB" in done.stdout
    (fits,) = (line for line in done.stdout.splitlines() if line.startswith("fits in bf16"))
    assert "H100" in fits
    assert "T4" not in fits


def test_a_slip_in_a_setting_is_one_clear_error() -> None:
    done = run_script("calc_params", "model.presset=gpt2")
    assert done.returncode == 2
    assert "did you mean `preset`?" in done.stderr
    assert "Traceback" not in done.stderr


def test_calc_lr_config_prints_the_table_and_draws_the_picture(tmp_path: Path) -> None:
    picture = tmp_path / "lr.png"
    done = run_script("calc_lr_config", "train.max_steps=1000", "schedule.kind=wsd", "--png", str(picture))
    assert done.returncode == 0, done.stderr
    assert "       100   6.000e-04" in done.stdout
    assert done.stdout.count(" ┤") >= 8
    assert "optim.lr=" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["cosine", "wsd", "linear", "constant"])
def test_the_table_has_the_rates_of_the_schedule_at_its_corners(kind: str) -> None:
    config = run_config({"schedule": {"kind": kind, "warmup_steps": 30}, "train": {"max_steps": 500}}, source="x")
    table = schedule_table(config)
    assert {0, 30, 499} <= {step for step, _, _ in table}
    assert all(lr == lr_of(step, config) for step, lr, _ in table)
    assert table[-1][2] == 499 * config.train.global_batch_size * config.seq_len


def test_the_suggested_rates_are_the_published_ones_and_fall_with_size() -> None:
    for parameters, lr in RATES[1:]:
        assert suggested_lr(round(parameters)) == pytest.approx(lr)
    sizes = [10**power for power in range(5, 11)]
    rates = [suggested_lr(size) for size in sizes]
    assert rates == sorted(rates, reverse=True)
    assert suggested_lr(124_439_808) == pytest.approx(6e-4, rel=0.1)  # the two sources meet


def test_the_heads_rate_beside_muon_falls_with_the_root_of_the_width() -> None:
    rates = []
    for width in (192, 768, 3072):
        model = {"arch": "modern", "d_model": width, "n_heads": 6}
        found = advice(run_config({"model": model, "optim": {"kind": "muon"}}, source="x"))
        rates += [one.setting for one in found if one.setting.startswith("optim.lr=")]
    assert rates == ["optim.lr=0.008", "optim.lr=0.004", "optim.lr=0.002"]


@pytest.mark.parametrize("preset", list(RUN_PRESETS))
def test_every_recipe_is_a_configuration_with_a_size_and_advice(preset: str) -> None:
    config = run_config({"preset": preset}, source="x")
    assert f"{num_parameters(config.model):,}" in size_text_of(config)
    assert all("=" in one.setting and one.reason for one in advice(config))
