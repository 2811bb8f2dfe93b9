"""`gptops doctor` against this machine, and against machines made of a PATH with stand-ins for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.doctor import diagnosis
from launcher.errors import ExitCode
from launcher.hosts.preflight_checks import Check, Verdict
from launcher.paths import StatePaths, state_paths

Machine = Callable[..., None]
THIS_MACHINE = ("python", "ssh", "rsync", "sshd", "git", "disk", "state", "key")
CLOUDS = ("vast", "runpod", "lambda_cloud")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """`machine(rsync="rsync  version 2.6.9")`: a PATH with only programs that say that."""

    def make(**programs: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, says in programs.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\necho '{says}'\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return make


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def looked_at(tmp_path: Path) -> dict[str, Check]:
    return by_name(diagnosis(tmp_path, StatePaths(tmp_path / "state")))


def test_this_machine_can_run_gptops_and_the_key_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    found = {check["name"]: check for check in answer["checks"]}
    assert list(found) == [*THIS_MACHINE, *CLOUDS]
    assert found["key"]["found"].startswith("ssh-ed25519 ")


def test_the_table_names_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["check", "verdict", "found", "what", "to", "do"]
    assert len(lines) == 1 + len(THIS_MACHINE) + len(CLOUDS)


def test_what_is_missing_comes_with_the_command_of_this_system(machine: Machine, tmp_path: Path) -> None:
    machine(dnf="", sudo="")
    found = looked_at(tmp_path)
    sudo = "" if os.geteuid() == 0 else "sudo "
    assert (found["ssh"].verdict, found["ssh"].todo) == (Verdict.FAIL, f"{sudo}dnf install openssh-clients")
    assert (found["rsync"].verdict, found["rsync"].todo) == (Verdict.FAIL, f"{sudo}dnf install rsync")


def test_homebrew_needs_no_sudo(machine: Machine, tmp_path: Path) -> None:
    machine(brew="")
    assert looked_at(tmp_path)["rsync"].todo == "brew install rsync"


def test_a_system_without_a_known_package_manager_gets_the_name(machine: Machine, tmp_path: Path) -> None:
    machine()
    assert looked_at(tmp_path)["rsync"].todo == "install rsync with this system's package manager"


@pytest.mark.parametrize(
    ("says", "verdict"),
    [
        ("rsync  version 3.2.7  protocol version 31", Verdict.PASS),
        ("rsync  version v3.4.0-1-g0a1b  protocol version 32", Verdict.PASS),
        ("rsync  version 2.6.9  protocol version 29", Verdict.FAIL),
        ("openrsync: protocol version 29", Verdict.FAIL),
    ],
)
def test_an_rsync_that_is_too_old_or_another_is_found(
    says: str, verdict: Verdict, machine: Machine, tmp_path: Path
) -> None:
    machine(rsync=says)
    assert looked_at(tmp_path)["rsync"].verdict is verdict


@pytest.mark.parametrize(
    ("says", "verdict"),
    [
        ("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19", Verdict.PASS),
        ("OpenSSH_for_Windows_8.1p1, LibreSSL 3.0.2", Verdict.PASS),
        ("OpenSSH_6.6.1p1", Verdict.FAIL),
        ("Dropbear v2022.83", Verdict.FAIL),
    ],
)
def test_an_ssh_that_is_too_old_or_another_is_found(
    says: str, verdict: Verdict, machine: Machine, tmp_path: Path
) -> None:
    machine(ssh=says, ssh_keygen="", ssh_keyscan="")
    assert looked_at(tmp_path)["ssh"].verdict is verdict


def test_git_is_needed_only_inside_a_work_tree(machine: Machine, tmp_path: Path) -> None:
    machine()
    assert looked_at(tmp_path)["git"].verdict is Verdict.PASS
    (tmp_path / ".git").mkdir()
    assert looked_at(tmp_path)["git"].verdict is Verdict.FAIL


def test_a_state_folder_that_cannot_be_used_fails_with_the_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPTOPS_HOME", str(tmp_path / "file" / "below"))
    assert main(["doctor", "--json"]) == ExitCode.LOCAL_FAULT
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    found = {check["name"]: check for check in answer["checks"]}
    assert found["state"]["todo"] == "export GPTOPS_HOME=/a/folder/of/yours"


def test_a_private_key_that_others_may_read_fails(tmp_path: Path) -> None:
    looked_at(tmp_path)
    state = StatePaths(tmp_path / "state")
    state.private_key.chmod(0o644)
    assert looked_at(tmp_path)["key"].todo == f"chmod 600 '{state.private_key}'"


def test_looking_twice_leaves_nothing_but_the_key() -> None:
    diagnosis(Path.cwd(), state_paths())
    diagnosis(Path.cwd(), state_paths())
    assert {path.name for path in state_paths().root.rglob("*") if path.is_file()} == {"id_ed25519", "id_ed25519.pub"}
