"""The real trainer through the real gptops: up, train, logs, stop, down. Nothing is left over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.paths import StatePaths
from tests.launcher.command_line import Finished, gptops
from tests.launcher.conftest import require_programs
from tests.launcher.leftovers import files_of, processes_of
from tests.launcher.waiting import wait_until

pytestmark = pytest.mark.slow

JOBS = """\
defaults:
  stage: pretrain
  env: {OMP_NUM_THREADS: 1}
  train:
    model: {d_model: 16, n_layers: 1, n_heads: 2, max_seq_len: 16}
    data: {path: corpus.txt, tokenizer: {kind: bytes}}
    train: {max_steps: 4, global_batch_size: 4, micro_batch_size: 2}
    schedule: {warmup_steps: 1}
    checkpoint: {every_steps: 1000000}
    log: {every_steps: 1}
jobs:
  two: {processes: 2}
  accelerated: {launcher: accelerate}
"""


class Laptop:
    """A project, and the host it opened."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "my project's $(touch evil)"
        self.state = StatePaths(folder / "state")
        self.project.mkdir()
        (self.project / "jobs.yaml").write_text(JOBS)
        (self.project / "corpus.txt").write_text("To be, or not to be, that is the question.\n" * 200)

    def gptops(self, *words: str) -> Finished:
        return gptops(*words, home=self.state.root, cwd=self.project)

    def remote(self, run_id: str) -> Path:
        [home] = self.state.provider("local").glob("*/home")
        return home / "gptops" / run_id


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    require_programs()
    made = Laptop(tmp_path_factory.mktemp("laptop"))
    opened = made.gptops("up", "--provider", "local", "--name", "box")
    assert opened.exit_code == 0, opened.stderr
    yield made
    closed = made.gptops("down", "box", "--discard")
    assert closed.exit_code == 0, closed.stderr
    assert processes_of(made.state) == files_of(made.state) == []


def test_two_processes_train_and_every_byte_of_the_log_is_shown(laptop: Laptop) -> None:
    done = laptop.gptops("train", "two")
    assert done.exit_code == 0, done.stdout + done.stderr
    [local] = [path for path in (laptop.project / "runs").iterdir() if path.is_dir() and path.name.startswith("two")]
    remote = laptop.remote(local.name)
    assert done.stdout == (local / "train.log").read_text() == (remote / "logs" / "train.log").read_text()
    assert "step 4/4" in done.stdout
    assert done.stdout.count("step 4/4  loss") == 1, "one training of two processes, not two trainings"
    assert "`step_00000004`" in done.stdout
    assert f"newest checkpoint `step_00000004`, bring it home: `gptops sync {local.name}`" in done.stderr
    assert (remote / "checkpoints" / "step_00000004" / "MANIFEST.json").exists()


def test_accelerate_starts_it_too(laptop: Laptop) -> None:
    done = laptop.gptops("train", "accelerated")
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "step 4/4" in done.stdout


def test_stop_saves_a_checkpoint_of_both_processes(laptop: Laptop) -> None:
    started = laptop.gptops("train", "two", "train.max_steps=1000000", "--detach")
    run_id = started.stdout.strip()
    wait_until(lambda: "step 3/" in laptop.gptops("logs", run_id).stdout, seconds=60, what="three steps")
    stopped = laptop.gptops("stop", run_id, "--json")
    answer = json.loads(stopped.stdout)
    assert (stopped.exit_code, answer["phase"], answer["exit_code"]) == (0, "ended", 75)
    assert answer["checkpoint_step"] >= 3
    assert (laptop.remote(run_id) / "checkpoints" / f"step_{answer['checkpoint_step']:08d}").is_dir()
    assert laptop.gptops("logs", run_id, "-f").exit_code == 75
