"""The preflight: every verdict from what a machine may answer, and the whole of it against a real host."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import Ledger
from launcher.cli import main
from launcher.clock import SystemClock
from launcher.hosts import preflight_checks as judge
from launcher.hosts.preflight import examine
from launcher.hosts.preflight_checks import GIB, MIB, Asked, Check, Gpu, Verdict
from tests.launcher.checkpoint_maker import only_these_programs, register
from tests.launcher.conftest import SshHost

PASS, WARN, FAIL = Verdict.PASS, Verdict.WARN, Verdict.FAIL
NOTHING = Asked("box")
EIGHT_H100 = Asked("box", gpus=8, gpu_names=("H100",))
DOUBLES = Path(__file__).resolve().parents[1] / "doubles"


def csv(count: int, name: str = "NVIDIA H100 80GB HBM3", driver: str = "580.82.07") -> dict[str, str]:
    return {"csv": "\n".join([f"{name}, {driver}, 81559"] * count)}


def torch(count: int, *, available: bool = True, cuda: str | None = "13.0") -> dict[str, object]:
    return {"version": "2.13.0", "cuda": cuda, "is_available": available, "device_count": count}


def test_nvidia_smis_lines_are_read_whatever_a_field_says() -> None:
    text = "NVIDIA H100 80GB HBM3, 580.82.07, 81559\nNVIDIA GB10, 580.95.05, [N/A]\n\nnonsense"
    assert judge.parse_gpus(text) == [
        Gpu("NVIDIA H100 80GB HBM3", "580.82.07", 81559), Gpu("NVIDIA GB10", "580.95.05", None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "asked", "verdict", "words"),
    [
        ({"error": "not installed"}, NOTHING, PASS, "none, none asked"),
        ({"error": "not installed"}, EIGHT_H100, FAIL, "nvidia-smi: not installed"),
        ({"error": "NVIDIA-SMI has failed"}, NOTHING, WARN, "nvidia-smi: NVIDIA-SMI has failed"),
        (csv(8), EIGHT_H100, PASS, "8 x NVIDIA H100 80GB HBM3"),
        (csv(7), EIGHT_H100, FAIL, "7 x NVIDIA H100 80GB HBM3; 8 asked"),
        (csv(0), EIGHT_H100, FAIL, "0 GPUs; 8 asked"),
        (csv(8, "NVIDIA A100-SXM4-80GB"), EIGHT_H100, FAIL, "8 x NVIDIA A100-SXM4-80GB; asked for H100"),
        (csv(1, "NVIDIA GeForce RTX 4090"), Asked("box", 1, ("rtx_4090",)), PASS, "1 x NVIDIA GeForce RTX 4090"),
        (csv(2), NOTHING, PASS, "2 x NVIDIA H100 80GB HBM3"),
        ({"csv": csv(1)["csv"] + "\n" + csv(1, "NVIDIA A100")["csv"]}, Asked("box", 2), WARN, "1 x NVIDIA A100 + 1 x"),
    ],
)
def test_gpus_against_what_was_asked(answer: dict[str, str], asked: Asked, verdict: Verdict, words: str) -> None:
    check = judge.gpu_check(answer, asked)
    assert (check.verdict, check.found[: len(words)]) == (verdict, words)
    assert check.verdict is PASS or check.todo


@pytest.mark.parametrize(
    ("driver", "cuda", "verdict"),
    [
        ("580.65.06", "13.0", PASS), ("580.65.05", "13.0", FAIL), ("570.86.15", "13.0", FAIL),
        ("570.86.15", "12.8", PASS), ("525.60.13", "12.1", PASS), ("515.105.01", "12.1", FAIL), ("999.1", "14.0", WARN),
    ],
)  # fmt: skip
def test_the_driver_against_the_wheels_cuda(driver: str, cuda: str, verdict: Verdict) -> None:
    check = judge.driver_check(csv(8, driver=driver), torch(8, cuda=cuda), EIGHT_H100)
    assert check.verdict is verdict
    assert driver in check.found
    assert cuda in check.found


def test_a_wheel_without_cuda_on_a_gpu_host_is_a_fail_and_no_wheel_yet_a_warning() -> None:
    assert judge.driver_check(csv(8), torch(0, cuda=None), EIGHT_H100).verdict is FAIL
    assert judge.driver_check(csv(8), {"error": "No module named 'torch'"}, EIGHT_H100).verdict is WARN
    assert judge.driver_check({"error": "not installed"}, torch(0, cuda=None), NOTHING).verdict is PASS


@pytest.mark.parametrize(
    ("facts", "asked", "verdict"),
    [
        (torch(8), EIGHT_H100, PASS), (torch(0, available=False), EIGHT_H100, FAIL), (torch(7), EIGHT_H100, FAIL),
        (torch(0, available=False, cuda=None), NOTHING, FAIL), ({"error": "No module named 'torch'"}, NOTHING, WARN),
    ],
)  # fmt: skip
def test_torch_must_see_what_nvidia_smi_sees(facts: dict[str, object], asked: Asked, verdict: Verdict) -> None:
    assert judge.torch_check(facts, csv(8), asked).verdict is verdict


def test_torch_on_a_machine_without_gpus_passes() -> None:
    check = judge.torch_check(torch(0, available=False, cuda=None), {"error": "not installed"}, NOTHING)
    assert check.verdict is PASS


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (judge.ssh_check(0.2, 0.02), PASS),
        (judge.ssh_check(2.0, 0.6), WARN),
        (judge.clock_check(0.05, 0.1), PASS),
        (judge.clock_check(-3.0, 0.1), PASS),
        (judge.clock_check(12.0, 0.1), WARN),
        (judge.clock_check(-3600.0, 0.1), FAIL),
        (judge.transfer_check("upload", 30 * MIB), PASS),
        (judge.transfer_check("upload", 0.5 * MIB), WARN),
        (judge.disk_check({"free_bytes": 100 * GIB}, Asked("box", disk_gib=50)), PASS),
        (judge.disk_check({"free_bytes": 40 * GIB}, Asked("box", disk_gib=50)), FAIL),
        (judge.disk_check({"free_bytes": 1 * GIB}, NOTHING), FAIL),
        (judge.write_check({"bytes_per_second": 900 * MIB}), PASS),
        (judge.write_check({"bytes_per_second": 30 * MIB}), WARN),
        (judge.write_check({"error": "No space left on device"}), FAIL),
        (judge.rsync_check("rsync  version 3.2.7  protocol version 31", NOTHING), PASS),
        (judge.rsync_check({"error": "not installed"}, NOTHING), FAIL),
        (judge.python_check({"error": "there is no python3"}, NOTHING), FAIL),
        (judge.reduce_check({"backend": "nccl", "right": True, "seconds": 0.01}, torch(8)), PASS),
        (judge.reduce_check({"backend": "nccl", "right": False, "seconds": 0.01}, torch(8)), FAIL),
        (judge.reduce_check({"error": "did not find each other"}, torch(8)), FAIL),
        (judge.reduce_check({}, {"error": "No module named 'torch'"}), WARN),
    ],
)
def test_every_verdict_that_is_no_pass_says_what_to_do(check: Check, verdict: Verdict) -> None:
    assert check.verdict is verdict
    assert check.verdict is PASS or check.todo


@pytest.fixture
def examined(tmp_path: Path) -> Iterator[Callable[[SshHost, Asked], dict[str, Check]]]:
    opened = []

    def examine_host(host: SshHost, asked: Asked) -> dict[str, Check]:
        transport = host.transport()
        opened.append(transport)
        scratch = tmp_path / f"scratch-{len(opened)}"
        scratch.mkdir()
        checks = examine(transport, asked, SystemClock(), scratch, lambda _text: None)
        return {check.name: check for check in checks}

    yield examine_host
    for transport in opened:
        transport.close()


def test_a_local_host_passes_every_check_and_keeps_nothing_of_it(
    ssh_host: SshHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("GPTOPS_HOME", str(ssh_host.state.root))
    with Ledger(ssh_host.state.ledger, SystemClock()) as ledger:
        register(ssh_host, ledger)
    assert main(["test-remote", ssh_host.host.name, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["passed"]
    checks = {check["name"]: check for check in answer["checks"]}
    assert list(checks) == [
        "ssh", "python", "rsync", "clock", "upload", "download", "disk", "disk write", "gpus", "driver", "torch.cuda",
        "all-reduce", "checkpoint",
    ]  # fmt: skip
    assert checks["all-reduce"]["found"].startswith("gloo, two processes")
    assert checks["checkpoint"]["found"].startswith("made, pulled, verified and deleted there")
    assert not list(ssh_host.home.glob("gptops/preflight-*"))


def test_gpus_are_counted_by_the_hosts_nvidia_smi(
    fresh_host: Callable[[], SshHost], tmp_path: Path, examined: Callable[[SshHost, Asked], dict[str, Check]]
) -> None:
    host = fresh_host()
    only_these_programs(host, tmp_path / "tools", "sh", "python3", "rsync", "mkdir", "cat", "rm", "ls", "true", "env")
    shutil.copy(DOUBLES / "nvidia-smi", tmp_path / "tools" / "nvidia-smi")
    gpu = {"name": "NVIDIA H100 80GB HBM3", "driver_version": "570.86.15", "memory.total": 81559}
    (host.home / "fake_gpus.json").write_text(json.dumps([gpu] * 2))
    hide_torch(host)
    checks = examined(host, Asked(host.host.name, gpus=8))
    assert (checks["gpus"].verdict, checks["gpus"].found) == (FAIL, "2 x NVIDIA H100 80GB HBM3; 8 asked")
    assert (checks["torch.cuda"].verdict, checks["all-reduce"].verdict) == (WARN, WARN)
    assert "run setup first" in checks["torch.cuda"].todo
    assert checks["checkpoint"].verdict is PASS
    (host.home / "fake_gpus.json").write_text(json.dumps("NVIDIA-SMI has failed because it couldn't communicate"))
    assert examined(host, Asked(host.host.name, gpus=8))["gpus"].found.startswith("nvidia-smi: NVIDIA-SMI has failed")


def hide_torch(host: SshHost) -> None:
    """A host where setup has not been: its Python finds no torch."""
    (host.home / "no-torch").mkdir()
    (host.home / "no-torch" / "torch.py").write_text("raise ImportError(\"No module named 'torch'\")\n")
    script = host.folder / "session.sh"
    path = str(host.home / "no-torch")
    script.write_text(script.read_text().replace("\ncd ", f"\nexport PYTHONPATH='{path}'\ncd ", 1))


def test_a_host_without_rsync_or_python_fails_with_the_command_that_brings_them(
    fresh_host: Callable[[], SshHost], tmp_path: Path, examined: Callable[[SshHost, Asked], dict[str, Check]]
) -> None:
    host = fresh_host()
    only_these_programs(host, tmp_path / "tools", "sh", "python3", "mkdir", "cat", "rm", "ls", "true")
    hide_torch(host)
    checks = examined(host, Asked(host.host.name))
    assert (checks["rsync"].verdict, checks["rsync"].found) == (FAIL, "not installed")
    assert checks["rsync"].todo == f"gptops ssh {host.host.name} -- apt-get install -y rsync"
    assert checks["checkpoint"].found == "not checked: rsync is missing"
    (tmp_path / "tools" / "python3").unlink()
    checks = examined(host, Asked(host.host.name))
    assert checks["python"].verdict is FAIL
    assert checks["everything else"].verdict is WARN


def test_a_failed_check_is_a_table_an_error_and_exit_code_14(
    fresh_host: Callable[[], SshHost], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = fresh_host()
    hide_torch(host)
    monkeypatch.setenv("GPTOPS_HOME", str(host.state.root))
    with Ledger(host.state.ledger, SystemClock()) as ledger:
        register(host, ledger)
    assert main(["test-remote", "--gpus", "8"]) == 14
    said = capsys.readouterr()
    assert next(line for line in said.out.splitlines() if line.startswith("gpus")).split()[1] == "fail"
    assert f"error: `{host.host.name}` fails 1 of 13 checks" in said.err
    assert "why:   gpus" in said.err
