"""The local host: a real sshd of its own, apart from the user's home, and gone without a trace."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from launcher.errors import LocalFault
from launcher.paths import StatePaths
from launcher.providers import local_processes, local_sshd
from launcher.providers.base import CreateRequest, Status, Wanted
from launcher.providers.local import LocalProvider
from launcher.providers.local_processes import sshd_process
from launcher.remote.keys import ensure_key, public_line
from launcher.remote.transport import Command
from tests.launcher.conftest import SshHost, open_local_host
from tests.launcher.leftovers import files_of, processes_of
from tests.launcher.waiting import wait_until


def test_it_answers_within_a_moment(fresh_host: Callable[[], SshHost]) -> None:
    started = time.monotonic()
    host = fresh_host()
    assert time.monotonic() - started < 30
    instance = host.provider.get(host.instance.instance_id)
    assert instance is not None
    assert instance.status is Status.RUNNING


def test_its_python_is_the_one_that_runs_gptops(ssh_host: SshHost, transport: object) -> None:
    assert isinstance(transport, type(ssh_host.transport()))
    found = transport.run(Command(("sh", "-c", "command -v python3"))).stdout.strip()
    assert Path(found).parent == Path(sys.executable).parent


def test_its_home_and_its_keys_are_for_the_user_alone(ssh_host: SshHost) -> None:
    assert ssh_host.folder.stat().st_mode & 0o077 == 0
    assert (ssh_host.folder / "host_key").stat().st_mode & 0o077 == 0


def test_it_listens_on_loopback_alone(ssh_host: SshHost) -> None:
    listener = sshd_process(ssh_host.folder / "sshd_config")
    assert listener is not None
    listening = [c.laddr.ip for c in listener.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]


def test_it_outlives_the_process_that_opened_it(tmp_path: Path) -> None:
    state = StatePaths(tmp_path / "state")
    program = (
        "import sys; from pathlib import Path; from launcher.paths import StatePaths;"
        "from tests.launcher.conftest import open_local_host;"
        "print(open_local_host(StatePaths(Path(sys.argv[1]))).instance.instance_id)"
    )
    opener = subprocess.run(
        [sys.executable, "-c", program, str(state.root)], capture_output=True, text=True, check=True
    )
    provider = LocalProvider(state.provider("local"))
    instance = provider.get(opener.stdout.strip())
    assert instance is not None
    assert instance.status is Status.RUNNING
    provider.destroy(instance.instance_id)
    assert processes_of(state) == []


def test_a_home_with_a_hostile_path_works(tmp_path: Path) -> None:
    host = open_local_host(StatePaths(tmp_path / "my state; $(touch x) 'q' %h &"))
    transport = host.transport()
    try:
        assert transport.run(Command(("pwd",))).stdout == f"{host.home}\n"
        assert subprocess.run(transport.ssh_argv(Command(("true",)))).returncode == 0
    finally:
        transport.close()
        host.destroy()


def test_a_path_that_no_configuration_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match="cannot take the path"):
        open_local_host(StatePaths(tmp_path / 'a"b'))


def test_destroying_ends_every_process_on_it(fresh_host: Callable[[], SshHost]) -> None:
    host = fresh_host()
    transport = host.transport()
    in_a_session_of_its_own = (
        "setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' >/dev/null 2>&1 </dev/null &"
    )
    transport.run(Command(("sh", "-c", in_a_session_of_its_own)))
    attached = subprocess.Popen(transport.ssh_argv(Command(("sleep", "1000"))), stderr=subprocess.DEVNULL)
    wait_until(lambda: any("sleep 1000" in each for each in processes_of(host.state)), what="the attached command runs")
    host.destroy()
    assert attached.wait(timeout=60) != 0
    transport.close()
    assert processes_of(host.state) == []
    assert not host.folder.exists()


def test_destroying_ends_sessions_whose_sshd_is_gone(fresh_host: Callable[[], SshHost]) -> None:
    host = fresh_host()
    transport = host.transport()
    transport.run(Command(("true",)))
    listener = sshd_process(host.folder / "sshd_config")
    assert listener is not None
    sessions = listener.children(recursive=True)
    listener.kill()
    host.destroy()
    assert [p for p in sessions if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    transport.close()


def test_destroying_leaves_other_hosts_and_their_processes(fresh_host: Callable[[], SshHost]) -> None:
    first, second = fresh_host(), fresh_host()
    transport = second.transport()
    transport.run(Command(("sh", "-c", "setsid sleep 987 >/dev/null 2>&1 </dev/null &")))
    first.destroy()
    assert any("sleep 987" in each for each in processes_of(second.state))
    assert transport.run(Command(("echo", "here"))).stdout == "here\n"
    transport.close()


def test_a_host_whose_sshd_died_is_stopped_and_can_be_destroyed(fresh_host: Callable[[], SshHost]) -> None:
    host = fresh_host()
    listener = sshd_process(host.folder / "sshd_config")
    assert listener is not None
    listener.send_signal(signal.SIGKILL)
    wait_until(lambda: sshd_process(host.folder / "sshd_config") is None, what="sshd is gone")
    instance = host.provider.get(host.instance.instance_id)
    assert instance is not None
    assert instance.status is Status.STOPPED
    host.destroy()
    assert host.provider.get(host.instance.instance_id) is None


def test_a_host_left_half_furnished_can_be_destroyed(tmp_path: Path) -> None:
    state = StatePaths(tmp_path)
    provider = LocalProvider(state.provider("local"))
    (state.provider("local") / "gptops.p.half").mkdir(parents=True)
    [instance] = provider.labelled("gptops:p:half")
    assert instance.status is Status.STARTING
    provider.destroy(instance.instance_id)
    assert files_of(state) == []


def test_without_sshd_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("launcher.providers.local_sshd.SBIN", ())
    provider = LocalProvider(tmp_path / "local")
    [offer] = provider.offers(Wanted())
    with pytest.raises(LocalFault, match="sshd is not installed") as raised:
        provider.create(offer, CreateRequest("gptops:p:1", "", 0, "ssh-ed25519 AAAA"))
    assert "openssh-server" in raised.value.hint


def test_a_place_that_cannot_be_written_is_a_local_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ensure_key(tmp_path / "key")
    provider = LocalProvider(tmp_path / "file" / "local")
    request = CreateRequest("gptops:p:1", "", 0, public_line(tmp_path / "key"))
    with pytest.raises(LocalFault, match="could not make the host's folder"):
        provider.create(LocalProvider(tmp_path).offers(Wanted())[0], request)


def test_gpus_are_offered_when_nvidia_smi_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubles = Path(__file__).resolve().parents[1] / "doubles"
    monkeypatch.setenv("PATH", f"{doubles}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GPUS", json.dumps([{"name": "NVIDIA H100 80GB HBM3"}] * 2))
    [offer] = LocalProvider(tmp_path).offers(Wanted(gpus=2, gpu_names=("h100",)))
    assert offer.gpus == 2
    assert "H100" in offer.gpu_name
    assert LocalProvider(tmp_path).offers(Wanted(gpus=2, gpu_names=("A100",))) == []


AS_SOMEBODY = """
import sys
from pathlib import Path
from launcher.paths import StatePaths
from launcher.remote.transport import Command
from tests.launcher.conftest import open_local_host
host = open_local_host(StatePaths(Path(sys.argv[1]) / "state"))
transport = host.transport()
print(transport.run(Command(("id", "-u"))).stdout.strip())
print(transport.push(["a"], Path(sys.argv[1]), Path("there")).files)
transport.close()
host.destroy()
print(host.provider.get(host.instance.instance_id))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="whoever is not root runs all tests like this anyway")
def test_an_unprivileged_user_can_have_one() -> None:
    person = _somebody()
    place = Path(tempfile.mkdtemp(prefix="gptops-somebody-"))
    try:
        (place / "a").write_text("a")
        os.chown(place, person.pw_uid, person.pw_gid)
        done = _as(person, place, "-c", AS_SOMEBODY, str(place))
        assert done.stdout.split() == [str(person.pw_uid), "1", "None"], done.stderr
    finally:
        shutil.rmtree(place)


def _somebody() -> pwd.struct_passwd:
    """A person's account; sshd lets nobody else in."""
    for entry in pwd.getpwall():
        if 1000 <= entry.pw_uid < 60000 and Path(entry.pw_shell).name in ("sh", "bash", "dash", "zsh", "fish"):
            return entry
    pytest.skip("this machine has no account but root's")


def _as(person: pwd.struct_passwd, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a Python that others may run; root's own often lies where they may not look."""
    libraries = os.pathsep.join([os.getcwd(), sysconfig.get_paths()["purelib"]])
    env = {**os.environ, "HOME": str(place), "XDG_RUNTIME_DIR": str(place), "PYTHONPATH": libraries}

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, capture_output=True, text=True, env=env, user=person.pw_uid, group=person.pw_gid, extra_groups=[]
        )

    for python in (sys.executable, "/usr/bin/python3"):
        try:
            if run(python, "-c", "import launcher, paramiko, psutil, pytest").returncode == 0:
                return run(python, *words)
        except PermissionError:
            continue
    pytest.skip("no Python here that others may run has our packages")


def test_what_has_not_become_its_sshd_yet_is_ended_too(tmp_path: Path) -> None:
    """A machine may be ended in the moment in which it begins, when its sshd is a shell still."""
    folder, slow = tmp_path / "gptops.tests.slow", tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\n[ "$1" = -t ] && exit\nread -r never <{tmp_path}/fifo\n')
    slow.chmod(0o700)
    os.mkfifo(tmp_path / "fifo")
    local_sshd.start_sshd(str(slow), folder)
    assert local_processes.end_all(folder.name, local_sshd.config_file(folder), []) == []
    assert [each for each in psutil.process_iter() if str(tmp_path) in " ".join(words_of(each))] == []


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
