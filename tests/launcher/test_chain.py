"""Jobs that begin where another one ended: shape from jobs.yaml, weights from the newest checkpoint at home."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.books.ledger import Ledger, RunRow, RunState
from launcher.clock import SystemClock
from launcher.errors import JobsError, NotFound
from launcher.paths import LocalRun
from launcher.project import Project
from launcher.running.beginning import beginning_of, begun_from
from launcher.spec.jobs_file import Jobs, load_jobs, resolve_train
from tests.launcher.checkpoint_maker import write_checkpoint
from trainer.config import RunConfig

CHAIN = """
jobs:
  base:
    stage: pretrain
    train:
      model: {arch: modern, d_model: 64, n_layers: 3, n_heads: 2, max_seq_len: 128, dropout: 0.1}
      data: {tokenizer: {kind: bpe, vocab_size: 300}}
  sft: {stage: sft, train: {model: {init_from: "job:base"}}}
  dpo: {stage: dpo, train: {model: {init_from: "job:sft"}, data: {seq_len: 64}}}
"""


def jobs_of(folder: Path, text: str) -> Jobs:
    (folder / "jobs.yaml").write_text(text)
    return load_jobs(folder / "jobs.yaml")


def resolved(jobs: Jobs, name: str, *overrides: str) -> RunConfig:
    return resolve_train(jobs.job(name), name, jobs, overrides)


def test_the_shape_and_the_tokenizer_come_down_the_whole_chain(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, CHAIN)
    dpo = resolved(jobs, "dpo")
    assert (dpo.model.arch, dpo.model.d_model, dpo.model.n_layers, dpo.model.vocab_size) == ("modern", 64, 3, 300)
    assert (dpo.data.tokenizer.kind, dpo.seq_len, dpo.model.init_from) == ("bpe", 64, "job:sft")
    assert dpo.model.dropout == 0  # how a model was trained is not what it is


def test_an_override_may_name_the_job(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, CHAIN)
    assert resolved(jobs, "dpo", "model.init_from=job:base").model.d_model == 64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "jobs: {a: {stage: sft, train: {model: {init_from: 'job:bse'}}}, base: {stage: pretrain}}",
            "did you mean `base`",
        ),
        ("jobs: {a: {stage: sft, train: {model: {init_from: 'job:a'}}}}", "a circle: `a` begins from `a`"),
        (
            "jobs: {a: {stage: sft, train: {model: {init_from: 'job:b'}}},"
            " b: {stage: sft, train: {model: {init_from: 'job:a'}}}}",
            "a circle: `a` begins from `b` begins from `a`",
        ),
    ],
)
def test_a_job_that_is_not_there_or_leads_back_is_named(tmp_path: Path, text: str, words: str) -> None:
    jobs = jobs_of(tmp_path, text)
    with pytest.raises(JobsError) as raised:
        resolved(jobs, "a")
    assert words in raised.value.what
    assert "init_from" in raised.value.what


def run_of(job: str, project: Path, number: int) -> RunRow:
    home = project / "runs" / f"{job}-{number}"
    return RunRow(
        run_id=f"{job}-{number}", job=job, host_name="h", instance_label="l", project_root=str(project),
        local_root=str(home), created_at=float(number), state=RunState.ENDED, exit_code=0, delete_remote=True,
        keep_remote=2,
    )  # fmt: skip


def test_it_begins_from_the_newest_whole_checkpoint_at_home(tmp_path: Path) -> None:
    config = resolved(jobs_of(tmp_path, CHAIN), "sft")
    project = Project(tmp_path, "here", tmp_path / "jobs.yaml")
    with Ledger(tmp_path / "ledger.sqlite3", SystemClock()) as ledger:
        with pytest.raises(NotFound, match="begins from `base`") as raised:
            beginning_of(config, project, ledger)
        assert "gptops run base" in raised.value.hint
        for row in (run_of("base", tmp_path, 1), run_of("base", tmp_path, 2), run_of("other", tmp_path, 3)):
            ledger.add_run(row)
            for step in (100, 200):
                write_checkpoint(LocalRun(Path(row.local_root)).checkpoints, step)
        newest = tmp_path / "runs" / "base-2" / "checkpoints" / "step_00000200"
        assert beginning_of(config, project, ledger) == newest
        damaged = next(path for path in newest.iterdir() if path.suffix == ".safetensors")
        damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
        before = beginning_of(config, project, ledger)
        assert before == tmp_path / "runs" / "base-1" / "checkpoints" / "step_00000200"
        begun = begun_from(config, before)
    assert begun.model.init_from == "../init/step_00000200"
    assert begun.data.tokenizer.path == "../init/step_00000200/tokenizer"


def test_a_job_that_names_none_begins_from_nothing(tmp_path: Path) -> None:
    config = resolved(jobs_of(tmp_path, CHAIN), "base")
    with Ledger(tmp_path / "ledger.sqlite3", SystemClock()) as ledger:
        assert beginning_of(config, Project(tmp_path, "here", tmp_path / "jobs.yaml"), ledger) is None
