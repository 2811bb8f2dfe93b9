"""What `--help` says: a change to these words is seen in review."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.cli.verbs import VERBS


def help_text(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return "\n".join(line.rstrip() for line in captured.out.splitlines()).strip() + "\n"


def test_the_help_of_gptops(capsys: pytest.CaptureFixture[str], golden: Callable[[str, str], None]) -> None:
    golden("launcher_help.txt", help_text(capsys))


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_the_help_of_each_verb(
    verb: str, capsys: pytest.CaptureFixture[str], golden: Callable[[str, str], None]
) -> None:
    text = help_text(capsys, verb)
    assert "Examples:" in text, "the help of every verb has examples"
    assert "--json" in text, "every verb can be read by a program"
    golden(f"launcher_help_{verb}.txt", text)


@pytest.mark.parametrize(("words", "expected"), [("gptops doc", "doctor"), ("gptops check --jo", "--job")])
def test_a_shell_completes_verbs_and_options(words: str, expected: str) -> None:
    asked = {"_GPTOPS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", "from launcher.cli import main; main()"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **asked},
    )
    assert (done.stdout.split(), done.stderr) == ([expected], "")
