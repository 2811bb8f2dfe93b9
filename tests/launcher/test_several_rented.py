"""Several rented machines are refused before anything is asked or opened, with the reason and what to use instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launcher.command_line import gptops

JOBS = """\
jobs:
  two: {stage: pretrain, provider: runpod, resources: {gpus: 8, nodes: 2}, train: {train: {global_batch_size: 128}}}
"""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("up", "--provider", "vast", "--nodes", "2"), "single containers without a private network between them"),
        (("up", "--job", "two"), "its clusters are another product, which gptops does not rent"),
        (("up", "--provider", "local", "--nodes", "2"), "all nodes would be this one machine"),
        (("offers", "--provider", "lambda_cloud", "--nodes", "2"), "one machine at a time there"),
        (("offers", "--job", "two"), "its clusters are another product, which gptops does not rent"),
    ],
)
def test_several_nodes_at_a_cloud_are_refused_with_the_reason(tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    (tmp_path / "jobs.yaml").write_text(JOBS)
    done = gptops(*words, home=tmp_path / ".state", cwd=tmp_path)
    assert done.exit_code == 2, done.stderr
    assert "2 nodes at `" in done.stderr
    assert why in done.stderr
    assert "gptops render --for skypilot" in done.stderr
    assert not (tmp_path / ".state" / "ledger.sqlite3").exists(), "nothing was asked or written"
