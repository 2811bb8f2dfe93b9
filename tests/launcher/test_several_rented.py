"""Several machines of a cloud that joins none are refused before anything is asked, with reason and ways out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launcher.command_line import gptops

JOBS = """\
jobs:
  two:
    stage: pretrain
    provider: lambda_cloud
    resources: {gpus: 8, nodes: 2}
    train: {train: {global_batch_size: 128}}
"""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("up", "--provider", "lambda_cloud", "--nodes", "2"), "its public API launches single instances"),
        (("up", "--job", "two"), "1-Click Clusters are not in it"),
        (("up", "--provider", "local", "--nodes", "2"), "all nodes would be this one machine"),
        (("offers", "--provider", "lambda_cloud", "--nodes", "2"), "makes no private network for them"),
        (("offers", "--job", "two"), "its public API launches single instances"),
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
