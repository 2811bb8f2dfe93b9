"""Plain `ssh gptops-NAME` and `rsync gptops-NAME:…`, and what opting into them does to the user's own file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.errors import ExitCode, LocalFault
from launcher.paths import StatePaths, state_paths
from launcher.remote.ssh_config import write_ssh_config
from launcher.remote.ssh_include import UserConfig, include_line
from tests.launcher.conftest import SshHost, require_programs

TEXTS = {
    "ordinary": b"Host work\n  User ann\n\nHost *\n  ServerAliveInterval 30\n",
    "empty": b"",
    "no newline at its end": b"Host work\n  User ann",
    "from Windows": b"Host work\r\n  User ann\r\n",
    "not UTF-8": b"# caf\xe9 \xff\nHost work\n",
    "another Include": b"Include ~/.orbstack/ssh/config\nHost work\n",
}


@pytest.fixture
def config(tmp_path: Path) -> UserConfig:
    return UserConfig(tmp_path / "home" / ".ssh" / "config")


def written(config: UserConfig, text: bytes) -> UserConfig:
    config.path.parent.mkdir(parents=True, exist_ok=True)
    config.path.write_bytes(text)
    return config


def options(config: UserConfig, host: str) -> dict[str, str]:
    """What OpenSSH makes of the file for this host."""
    said = subprocess.run(["ssh", "-G", "-F", str(config.path), host], capture_output=True, text=True, check=True)
    return dict(line.partition(" ")[::2] for line in said.stdout.splitlines())


# Real hosts


def test_plain_ssh_and_rsync_reach_an_open_host_by_its_pinned_key(
    ssh_host: SshHost, config: UserConfig, tmp_path: Path
) -> None:
    write_ssh_config(ssh_host.host, ssh_host.address, ssh_host.state.control_sockets)
    config.install(ssh_host.state)
    ssh = ["ssh", "-F", str(config.path)]
    said = subprocess.run([*ssh, ssh_host.host.alias, "echo", "here"], capture_output=True, text=True, timeout=120)
    assert (said.returncode, said.stdout, said.stderr) == (0, "here\n", "")
    (ssh_host.home / "brought").write_text("by rsync")
    rsync = ["rsync", "-e", f"ssh -F {config.path}", f"{ssh_host.host.alias}:brought", f"{tmp_path}/"]
    subprocess.run(rsync, check=True, timeout=120)
    assert (tmp_path / "brought").read_text() == "by rsync"


def test_a_host_is_there_from_up_to_down(
    config: UserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_programs()
    # A set-up of the user's own is left to `train`: nothing is installed here.
    (tmp_path / "jobs.yaml").write_text("jobs: {box: {stage: pretrain, setup: {shell: ['true']}}}")
    monkeypatch.chdir(tmp_path)
    assert main(["ssh-config", "--install", "--file", str(config.path)]) == ExitCode.OK
    assert main(["up", "--job", "box", "--name", "here"]) == ExitCode.OK
    try:
        capsys.readouterr()
        assert main(["ssh-config", "--file", str(config.path), "--json"]) == ExitCode.OK
        assert json.loads(capsys.readouterr().out)["hosts"] == ["gptops-here"]
        assert options(config, "gptops-here")["hostname"] == "127.0.0.1"
        done = subprocess.run(["ssh", "-F", str(config.path), "gptops-here", "true"], timeout=120)
        assert done.returncode == 0
    finally:
        assert main(["down", "here"]) == ExitCode.OK
    assert options(config, "gptops-here")["hostname"] == "gptops-here", "nobody answers for that name any more"


def test_the_users_own_options_do_not_win_over_ours_and_other_hosts_see_nothing_of_us(
    ssh_host: SshHost, config: UserConfig
) -> None:
    write_ssh_config(ssh_host.host, ssh_host.address, ssh_host.state.control_sockets)
    theirs = b"Host *\n  User ann\n  StrictHostKeyChecking no\n  ControlMaster auto\n  ControlPath /tmp/mine-%C\n"
    before = options(written(config, theirs), "elsewhere")
    config.install(ssh_host.state)
    ours = options(config, ssh_host.host.alias)
    assert (ours["user"], ours["port"]) == (ssh_host.address.user, str(ssh_host.address.port))
    assert ours["stricthostkeychecking"] == "true"
    assert ours["controlmaster"] == "false", "`gptops down` must not cut a connection of the user's own"
    assert options(config, "elsewhere") == before


# The user's file


@pytest.mark.parametrize("text", list(TEXTS.values()), ids=list(TEXTS))
def test_every_byte_of_the_users_own_stays_and_undoing_gives_the_file_back(config: UserConfig, text: bytes) -> None:
    written(config, text)
    assert config.install(state_paths())
    assert config.path.read_bytes().endswith(text)
    assert config.includes(state_paths())
    assert config.uninstall()
    assert (config.path.read_bytes() if config.path.exists() else b"") == text
    assert not config.includes(state_paths())


def test_again_changes_nothing(config: UserConfig) -> None:
    written(config, TEXTS["ordinary"])
    assert config.install(state_paths())
    once, when = config.path.read_bytes(), config.path.stat().st_ino
    assert not config.install(state_paths())
    assert (config.path.read_bytes(), config.path.stat().st_ino) == (once, when)
    assert config.uninstall()
    assert not config.uninstall()


def test_a_user_without_the_file_gets_one_that_only_they_can_read_and_loses_it_again(config: UserConfig) -> None:
    assert config.install(state_paths())
    assert config.path.stat().st_mode & 0o777 == 0o600
    assert config.path.parent.stat().st_mode & 0o777 == 0o700
    assert config.uninstall()
    assert not config.path.exists()


def test_a_link_stays_a_link_and_the_mode_stays(config: UserConfig, tmp_path: Path) -> None:
    dotfile = tmp_path / "dotfiles-ssh-config"
    dotfile.write_bytes(TEXTS["ordinary"])
    dotfile.chmod(0o640)
    config.path.parent.mkdir(parents=True)
    config.path.symlink_to(dotfile)
    config.install(state_paths())
    assert config.path.is_symlink()
    assert dotfile.read_bytes().endswith(TEXTS["ordinary"])
    assert dotfile.stat().st_mode & 0o777 == 0o640


def test_another_state_folder_takes_the_place_of_the_first(config: UserConfig, tmp_path: Path) -> None:
    written(config, TEXTS["ordinary"])
    config.install(StatePaths(tmp_path / "first"))
    config.install(StatePaths(tmp_path / "second with blanks"))
    text = config.path.read_bytes()
    assert text.count(b"Include ") == 1
    assert b"second with blanks" in text
    assert options(config, "gptops-x")["controlmaster"] == "false"


def test_lines_that_somebody_changed_between_ours_are_not_touched(config: UserConfig) -> None:
    config.install(state_paths())
    changed = config.path.read_bytes().replace(b"# gptops: end", b"Host mine\n# gptops: end")
    written(config, changed)
    for attempt in (config.uninstall, lambda: config.install(state_paths())):
        with pytest.raises(LocalFault, match="not written by gptops"):
            attempt()
    assert config.path.read_bytes() == changed
    assert sorted(path.name for path in config.path.parent.iterdir()) == ["config"], "nothing half written is left"


def test_what_cannot_be_read_or_written_is_said(config: UserConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config.path.mkdir(parents=True)
    assert main(["ssh-config", "--install", "--file", str(config.path)]) == ExitCode.LOCAL_FAULT
    assert f"cannot use {config.path}" in capsys.readouterr().err


@pytest.mark.parametrize("sign", ["*", "%", '"', "$", "["])
def test_a_state_folder_that_openssh_would_misread_is_refused(config: UserConfig, tmp_path: Path, sign: str) -> None:
    written(config, TEXTS["ordinary"])
    with pytest.raises(LocalFault, match="cannot include"):
        config.install(StatePaths(tmp_path / f"a{sign}b"))
    assert config.path.read_bytes() == TEXTS["ordinary"]


# The verb


def test_without_being_told_to_it_prints_the_line_and_touches_nothing(
    config: UserConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ssh-config", "--file", str(config.path)]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == include_line(state_paths()) + "\n"
    assert "--install" in err
    assert not config.path.exists()
    assert state_paths().ssh_include.is_file(), "whoever pastes the line by hand finds the file"


def test_the_default_is_the_users_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["ssh-config", "--install", "--json"]) == ExitCode.OK
    answer = json.loads(capsys.readouterr().out)
    assert (answer["file"], answer["included"], answer["changed"]) == (str(tmp_path / ".ssh" / "config"), True, True)
    assert main(["ssh-config", "--uninstall", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["included"] is False
    assert not (tmp_path / ".ssh" / "config").exists()


def test_to_and_fro_at_once_is_refused() -> None:
    assert main(["ssh-config", "--install", "--uninstall"]) == ExitCode.USAGE
