"""From nothing to a policy that learnt by rewards: `gptops run base sft grpo`, the real trainer on one real host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.paths import StatePaths
from launcher.providers.local import LocalProvider
from tests.launcher.command_line import gptops
from tests.launcher.conftest import require_programs
from tests.launcher.leftovers import files_of, processes_of
from trainer import manifest

JOBS = """\
defaults:
  provider: local
  resources: {gpus: 0, disk_gib: 1}
  processes: 1
  sync: {every_seconds: 1}
  env: {OMP_NUM_THREADS: 1}
  train:
    train: {precision: fp32, device: cpu, global_batch_size: 16, micro_batch_size: 16}
    optim: {lr: 1e-2}
    schedule: {warmup_steps: 2}
    log: {every_steps: 5}
jobs:
  base:
    stage: pretrain
    train:
      model: {arch: modern, d_model: 32, n_layers: 2, n_heads: 2, max_seq_len: 64}
      data: {path: corpus.txt, tokenizer: {kind: bpe, vocab_size: 300}}
      train: {max_steps: 40}
  sft:
    stage: sft
    train:
      model: {init_from: "job:base"}
      data: {path: chats.jsonl}
      train: {max_steps: 40}
  grpo:
    stage: grpo
    train:
      model: {init_from: "job:sft"}
      data: {path: prompts.jsonl}
      reward: {functions: [{use: "rewards.py:many_a"}], timeout_seconds: 120}
      rollout: {max_tokens: 12}
      grpo: {group_size: 4, beta: 0.01}
      train: {max_steps: 25, global_batch_size: 32, micro_batch_size: 32}
"""
WORDS = [a + b + c + d for a in "bdgk" for b in "aeiou" for c in "lmnr" for d in "aeiou"]


def write_project(folder: Path) -> Path:
    folder.mkdir()
    (folder / "jobs.yaml").write_text(JOBS)
    (folder / "corpus.txt").write_text("\n".join(" ".join(WORDS[i % 7 :: 50]) for i in range(400)))
    chats = [{"instruction": word, "output": WORDS[i * 7 % 400]} for i, word in enumerate(WORDS)]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": word}) + "\n" for word in WORDS[:120]))
    (folder / "rewards.py").write_text("def many_a(completion):\n    return min(1.0, completion.count('a') / 4)\n")
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StatePaths]:
    """The user's, with no host left behind, whatever happens."""
    require_programs()
    paths = StatePaths(tmp_path / "state")
    yield paths
    provider = LocalProvider(paths.provider("local"))
    for instance in provider.labelled("gptops:"):
        provider.destroy(instance.instance_id)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_job_begins_where_the_one_before_it_ended(state: StatePaths, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    done = gptops("run", "base", "sft", "grpo", "--skip-setup", "--skip-test", home=state.root, cwd=project)
    assert done.exit_code == 0, done.stderr
    assert processes_of(state) == files_of(state) == []
    found = {job: next((project / "runs").glob(f"{job}-*")) for job in ("base", "sft", "grpo")}
    for job, begins_from in (("sft", "base"), ("grpo", "sft")):
        [newest] = manifest.checkpoints(found[begins_from] / "checkpoints")
        assert manifest.verify(newest).step == 40
        assert f"it begins from `{newest.name}` of {found[begins_from].name}" in done.stderr, job
    lines = (found["grpo"] / "metrics.jsonl").read_text().splitlines()
    rewards = [row["reward"] for row in map(json.loads, lines) if "reward" in row]
    assert rewards[-1] > rewards[0] + 0.3
