"""The TAB key: a real bash completes hosts, runs and jobs, and nothing ever lands in the line being typed but names."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger, RunRow, RunState
from launcher.cli import completion
from launcher.cli.verbs import VERBS, VerbGroup
from launcher.clock import SystemClock
from launcher.paths import state_paths
from launcher.providers.by_name import AVAILABLE
from launcher.spec.job_names import names_in
from launcher.spec.jobs_file import load_jobs
from tests.launcher.test_cli_startup import NEVER, OURS, PEER, modules_after, packages

ROOT = Path(__file__).resolve().parents[2]

JOBS = """\
# jobs: {not: this}
defaults:
  stage: pretrain
jobs:
  # the small one
  demo:
    train: {train: {max_steps: 20}}
    env:
      inner: x
  'pretrain-large':
      stage: pretrain

  "sft":
    setup:
      run: |
        not-a-job: text in a block
hosts:
  gpubox: {host: gpubox.example}
  attic:
    host: attic.example
groups:
  pair: [gpubox, attic]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a jobs.yaml and one below it, where the user stands."""
    (tmp_path / "project" / "below").mkdir(parents=True)
    (tmp_path / "project" / "jobs.yaml").write_text(JOBS)
    monkeypatch.chdir(tmp_path / "project" / "below")
    return tmp_path / "project"


@pytest.fixture
def books() -> None:
    """A ledger with hosts in several states, and runs."""
    with Ledger(state_paths().ledger, SystemClock()) as ledger:
        for name, state in (
            ("vast-1a2b", InstanceState.OPEN),
            ("vast-9f9f", InstanceState.CLOSED),
            ("local-3f2a", InstanceState.OPEN),
            ("runpod-77aa", InstanceState.INTENDED),
        ):
            label = f"gptops:p:{name}"
            ledger.intend_instance(
                label=label, name=name, provider="vast", project="p", price_per_hour=2.0, gpus=1, gpu_name="H100"
            )
            ledger.mark_instance(label, state)
        for number, (run_id, state) in enumerate([("demo-1017", RunState.ENDED), ("demo-1018", RunState.RUNNING)]):
            ledger.add_run(
                RunRow(run_id, "demo", "vast-1a2b", "gptops:p:vast-1a2b", "/p", "/r", number, state, None, True, 2)
            )


class Bash:
    """A shell in which `gptops` is a program, with the completion that gptops writes for it."""

    def __init__(self, folder: Path) -> None:
        program = folder / "gptops"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m launcher "$@"\n')
        program.chmod(0o755)
        self._environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def after_tab(self, *lines: str) -> list[list[str]]:
        """What is offered at the end of each line, which is where the cursor stands."""
        script = 'eval "$(_GPTOPS_COMPLETE=source_bash gptops)"\n'
        for line in lines:
            words = line.split(" ")
            script += (
                f"COMP_WORDS=({' '.join(map(shlex.quote, words))}) COMP_CWORD={len(words) - 1} COMPREPLY=()\n"
                "_gptops_completion gptops\n"
                'printf "%s " "${COMPREPLY[@]}"; printf "\\n"\n'
            )
        said = subprocess.run(
            ["bash", "--norc", "-c", script], capture_output=True, text=True, env=self._environment, timeout=300
        )
        assert said.stderr == ""
        return [line.split() for line in said.stdout.splitlines()]


@pytest.fixture
def bash(tmp_path: Path) -> Bash:
    (tmp_path / "bin").mkdir()
    return Bash(tmp_path / "bin")


def test_bash_completes_hosts_runs_and_jobs(bash: Bash, project: Path, books: None) -> None:
    offered = bash.after_tab(
        "gptops down ",
        "gptops ssh lo",
        "gptops ssh local-3f2a -- nv",
        "gptops logs demo",
        "gptops stop ",
        "gptops train ",
        "gptops train demo --host v",
        "gptops up --provider la",
        "gptops up --host ",
        "gptops render sft --host ",
    )
    assert offered == [
        ["vast-1a2b", "local-3f2a", "runpod-77aa"],
        ["local-3f2a"],
        [],
        ["demo-1018", "demo-1017"],
        ["demo-1018"],
        ["demo", "pretrain-large", "sft"],
        ["vast-1a2b"],
        ["lambda_cloud"],
        ["gpubox", "attic", "pair"],
        ["gpubox", "attic"],
    ]


def test_where_nothing_can_be_known_bash_gets_nothing_and_hears_nothing(
    bash: Bash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.yaml").write_bytes(b"jobs:\n  \xff\xfe: [\n \t x\n")
    assert bash.after_tab("gptops down ", "gptops logs ", "gptops train ") == [[], [], []]
    assert not state_paths().ledger.exists(), "a TAB makes no ledger"
    state_paths().ledger.write_bytes(b"this is no database" * 100)
    assert bash.after_tab("gptops down ") == [[]]


def test_every_verb_that_takes_a_host_a_run_or_a_job_completes_it() -> None:
    group = VerbGroup(name="gptops")
    silent = [
        f"{verb.name} {parameter.name}"
        for verb in VERBS
        for parameter in group.get_command(None, verb.name).params
        if parameter.name in {"host", "run", "job", "jobs", "errand", "words"}
        and (verb.name, parameter.name) != ("check", "words")
        and parameter._custom_shell_complete is None
    ]
    assert silent == []


@pytest.mark.parametrize("words", ["gptops down ", "gptops train "])
def test_a_tab_imports_nothing_that_a_minimal_program_would_not(words: str, project: Path, books: None) -> None:
    asked = {"_GPTOPS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    lines = "import os", f"os.environ.update({asked!r})", "try:", f"    {OURS}", "except SystemExit:", "    pass"
    ours = modules_after("\n".join(lines))
    peers = packages(modules_after(PEER, "down", "x"))
    assert packages(ours) - peers <= {"platformdirs"}
    assert not packages(ours) & NEVER
    assert not {"launcher.spec.jobs", "launcher.spec.jobs_file", "launcher.remote.ssh", "trainer.config"} & ours


def test_the_names_are_those_that_the_real_reader_finds(project: Path) -> None:
    assert names_in(ROOT / "jobs.yaml", "jobs") == list(load_jobs(ROOT / "jobs.yaml").jobs)
    assert names_in(project / "jobs.yaml", "hosts") == ["gpubox", "attic"]


@pytest.mark.parametrize("text", ["", "jobs:", "jobs: {demo: {}}", "jobs:\n\tdemo:\n", "\x00", "- jobs:\n  - x\n"])
def test_a_file_of_another_form_has_no_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "jobs.yaml").write_text(text)
    assert names_in(tmp_path / "jobs.yaml", "jobs") == []
    assert names_in(tmp_path, "jobs") == []
    assert names_in(None, "jobs") == []


def test_machines_of_ones_own_and_providers_are_completed_too(project: Path) -> None:
    assert completion.own_machines("a") == ["attic"]
    assert completion.providers("") == list(AVAILABLE)


def test_without_a_ledger_nothing_is_offered_and_none_is_made() -> None:
    assert (completion.hosts(""), completion.runs(""), completion.errands("")) == ([], [], [])
    assert not state_paths().ledger.exists()
