"""The main job from end to end, as `gptops demo` shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.demo import DemoResult, ending
from launcher.errors import ExitCode
from launcher.paths import StatePaths
from tests.launcher.command_line import gptops
from tests.launcher.conftest import require_programs
from tests.launcher.leftovers import files_of, processes_of
from trainer import manifest

JOBS = """\
jobs:
  demo:
    stage: pretrain
    provider: local
    resources: {disk_gib: 1}
    sync: {every_seconds: 1}
    env: {OMP_NUM_THREADS: 1}
    train:
      model: {d_model: 16, n_layers: 1, n_heads: 2, max_seq_len: 32}
      data: {path: sample, tokenizer: {kind: bytes}}
      train: {max_steps: 6, global_batch_size: 4, micro_batch_size: 4}
      schedule: {warmup_steps: 1}
      checkpoint: {every_steps: 2}
      log: {every_steps: 1}
"""


@pytest.mark.slow
def test_the_demo_opens_trains_brings_home_and_closes(tmp_path: Path) -> None:
    require_programs()
    (tmp_path / "jobs.yaml").write_text(JOBS)
    state = StatePaths(tmp_path / "state")
    done = gptops("demo", "--json", home=state.root, cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    home = tmp_path / "runs" / answer["run_id"] / "checkpoints"
    assert [manifest.verify(checkpoint).step for checkpoint in manifest.checkpoints(home)] == [2, 4, 6]
    assert Path(answer["checkpoint"]) == home / "step_00000006"
    assert len(answer["sample"]) > 100
    assert [line for line in done.stderr.splitlines() if line.startswith("$ ")][-1] == "$ gptops down demo"
    assert (processes_of(state), files_of(state)) == ([], [])


def test_the_demo_needs_a_jobs_file(tmp_path: Path) -> None:
    done = gptops("demo", home=tmp_path / "state", cwd=tmp_path)
    assert done.exit_code == ExitCode.NOT_FOUND
    assert done.stderr.splitlines()[-1] == "hint:  gptops init"


def test_the_ending_shows_where_it_is_how_it_learned_and_what_to_type_next(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo-1"
    result = DemoResult(
        run_id="demo-1",
        checkpoint=run / "checkpoints" / "step_00000400",
        log=run / "train.log",
        losses=((1, 7.0), (200, 4.0), (400, 3.5)),
        sample="HAMLET:\nWords, words.",
    )
    text = "\n".join(ending(result, tmp_path))
    assert "training loss" in text
    assert "    HAMLET:\n    Words, words." in text
    assert "checkpoint  runs/demo-1/checkpoints/step_00000400 (verified)" in text
    assert "python -m trainer generate runs/demo-1/checkpoints/step_00000400 --prompt" in text
