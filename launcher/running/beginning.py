"""The checkpoint at home that a run begins from, where its job says `model.init_from: job:NAME`.

It travels into the run's own folder and is verified there, before anybody can find the run. The run's configuration
names it by a relative path, so what is stored in its checkpoints is true on every host.
"""

from __future__ import annotations

from pathlib import Path

from launcher.books.ledger import Ledger
from launcher.checkpoints.restore import newest_at_home
from launcher.errors import NotFound
from launcher.paths import LocalRun
from launcher.project import Project
from launcher.spec.chain import PREFIX
from trainer.config import RunConfig, TokenizerConfig

FOLDER = "init"
"""In the run's folder on the host; the training runs in `code/` beside it."""


def beginning_of(config: RunConfig, project: Project, ledger: Ledger) -> Path | None:
    """The newest whole checkpoint of the job that `config` begins from; None where it names none.

    Raises NotFound where that job has none at home.
    """
    if not config.model.init_from.startswith(PREFIX):
        return None
    job = config.model.init_from.removeprefix(PREFIX)
    runs = [run for run in ledger.runs() if run.job == job and run.project_root == str(project.root)]
    newest = newest_at_home([LocalRun(Path(run.local_root)) for run in runs])
    if newest is None:
        raise NotFound(
            f"the job begins from `{job}`, of which no checkpoint is at home",
            why="no run of it has saved one yet" if runs else "it was never run in this project",
            hint=f"gptops run {job}, or bring home what its host has: gptops sync",
        )
    return newest


def begun_from(config: RunConfig, checkpoint: Path) -> RunConfig:
    """The configuration as the host is to read it: weights and tokenizer are in the run's folder."""
    there = f"../{FOLDER}/{checkpoint.name}"
    tokenizer = TokenizerConfig(kind="folder", path=f"{there}/tokenizer", vocab_size=config.data.tokenizer.vocab_size)
    model = config.model.model_copy(update={"init_from": there})
    data = config.data.model_copy(update={"tokenizer": tokenizer})
    return config.model_copy(update={"model": model, "data": data})
