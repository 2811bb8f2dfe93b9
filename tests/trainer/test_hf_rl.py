"""Policies of transformers learn from rewards as ours do, whatever positions they have: ratio 1 and KL 0 at first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.foreign import KINDS, write_folder
from tests.trainer.toy_task import column, toy_files, toy_settings
from trainer.config import run_config
from trainer.loop.start import run_stage


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_minibatch_has_a_ratio_of_1_and_no_kl(kind: str, tmp_path: Path) -> None:
    """Prompts of several lengths, a temperature, and a GPT-2 whose own dropout is 0.1."""
    toy = toy_files(tmp_path / "toy")
    rows = "".join(f'{{"prompt": "{"ab" * (1 + i % 5)}"}}\n' for i in range(40))
    (toy / "prompts.jsonl").write_text(rows)
    settings = toy_settings(toy, tmp_path / "run")
    settings["model"] = {"init_from": f"hf:{write_folder(tmp_path / kind, kind)}"}
    settings["data"] = {"path": str(toy / "prompts.jsonl"), "seq_len": 48}
    given = ("rollout.completions=16", "rollout.temperature=0.7", "ppo.beta=0.1", "ppo.epochs=1", "train.max_steps=2")
    run_stage("ppo", run_config(settings, source="test", overrides=given))
    (first, later), kl = column(tmp_path / "run", "moved_kl"), column(tmp_path / "run", "kl")
    assert column(tmp_path / "run", "ratio")[0] == pytest.approx(1, abs=1e-5)
    assert first == pytest.approx(0, abs=1e-9)
    assert kl[0] == pytest.approx(0, abs=1e-4)
    assert later > 1e-6
