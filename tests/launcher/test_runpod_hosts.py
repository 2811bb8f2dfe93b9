"""`gptops up` to `gptops down` at the double of RunPod, whose pods are real hosts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import Ledger
from launcher.cli import main
from launcher.clock import SystemClock
from launcher.errors import ExitCode
from launcher.paths import state_paths
from launcher.remote.ssh_include import UserConfig
from tests.doubles.cloud import DROPPED
from tests.doubles.machines import reason_to_skip
from tests.doubles.runpod import Plan, RunpodDouble

JOBS = """\
jobs:
  box:
    stage: pretrain
    provider: runpod
    resources: {gpus: 2, gpu_names: [H100], disk_gib: 20}
    setup: {shell: ["true"]}     # so `up` leaves the set-up to `train`: it is the slow part, and not what is tested
"""


@pytest.fixture(autouse=True)
def _needs_sshd() -> None:
    if reason := reason_to_skip():
        pytest.skip(reason)


@pytest.fixture
def runpod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunpodDouble]:
    """RunPod, and a project whose job wants it."""
    (tmp_path / "jobs.yaml").write_text(JOBS)
    monkeypatch.chdir(tmp_path)
    with RunpodDouble(tmp_path / "cloud", with_hosts=True) as double:
        monkeypatch.setenv("RUNPOD_REST_URL", double.url)
        monkeypatch.setenv("RUNPOD_API_KEY", double.key)
        yield double


def test_from_offers_to_down_at_runpod(runpod: RunpodDouble, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def answer(*words: str) -> object:
        capfd.readouterr()
        assert main([*words, "--json"]) == ExitCode.OK
        return json.loads(capfd.readouterr().out)

    runpod.account_keys = ["ssh-rsa AAAAB3NzaC1yc2E= ann@desk"]
    runpod.next = Plan(knows_only_account_keys=True)
    config = UserConfig(tmp_path / "ssh" / "config")
    config.install(state_paths())
    assert main(["up", "--job", "box", "--name", "pod", "--yes"]) == ExitCode.OK
    [row] = answer("ps")  # type: ignore[misc]
    assert (row["name"], row["provider"], row["gpus"]) == ("pod", "runpod", 2)
    assert row["price_per_hour"] == pytest.approx(2 * 2.69, abs=0.01)
    with Ledger(state_paths().ledger, SystemClock()) as ledger:
        assert ledger.instances()[0].deadline is not None, "the pod has an id and a key of its own to end itself with"
    plain = subprocess.run(["ssh", "-F", str(config.path), "gptops-pod", "nvidia-smi", "-L"], capture_output=True)
    assert plain.stdout.count(b"H100") == 2
    for folder in (state_paths().root, runpod.machine("pod0000001").folder):
        assert runpod.key.encode() not in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert main(["down", "pod"]) == ExitCode.OK
    assert (runpod.alive, runpod.meter.per_hour) == ([], 0.0)
    charged = runpod.dollars()
    runpod.time.advance(36_000)
    assert 0 < runpod.dollars() == charged
    assert runpod.account_keys[0].endswith("ann@desk")


def test_a_pod_whose_create_was_never_answered_is_found_by_its_label_and_is_the_only_one(runpod: RunpodDouble) -> None:
    runpod.fail("POST", "/pods", DROPPED, when="after")
    assert main(["up", "--job", "box", "--name", "pod", "--yes"]) == ExitCode.OK
    assert runpod.alive == ["pod0000001"]
    assert main(["down", "pod"]) == ExitCode.OK
    assert (list(runpod.pods), runpod.alive, runpod.meter.per_hour) == (["pod0000001"], [], 0.0)


def test_a_pod_that_ends_in_an_error_is_ended_and_the_next_place_is_taken(runpod: RunpodDouble) -> None:
    runpod.next = Plan(ends_as="ERROR")
    assert main(["up", "--job", "box", "--name", "pod", "--yes"]) == ExitCode.OK
    assert [pod.center for pod in runpod.pods.values()] == ["EU-RO-1", "US-KS-2"]
    assert runpod.alive == ["pod0000002"]
    assert main(["down", "pod"]) == ExitCode.OK
    assert (runpod.alive, runpod.meter.per_hour) == ([], 0.0)
