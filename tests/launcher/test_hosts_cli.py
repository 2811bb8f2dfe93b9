"""up, ps, ssh and down as a person types them: what they print, how they end, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunRow, RunState
from launcher.clock import SystemClock
from launcher.errors import ExitCode
from launcher.hosts.opening import Opener
from launcher.hosts.planning import plan_for
from launcher.lock import hold
from launcher.paths import LocalRun, RemoteRun, StatePaths, state_paths
from launcher.providers.base import Wanted
from launcher.providers.local import LocalProvider
from launcher.providers.local_processes import sshd_process
from tests.launcher.checkpoint_maker import ended, names, training, tree, write_checkpoint
from tests.launcher.command_line import Finished, gptops, gptops_in_background
from tests.launcher.conftest import SshHost, require_programs
from tests.launcher.leftovers import files_of, processes_of
from tests.launcher.waiting import wait_until

HOSTILE = ["a'; echo foo", "two words", "$(id)", "line\nbreak", '"', "--json", "-x", "*", ""]


@dataclass
class Desk:
    """A user: their state, and the folder they work in."""

    state: StatePaths
    folder: Path

    def gptops(self, *words: str, crash_at: str = "") -> Finished:
        return gptops(*words, home=self.state.root, cwd=self.folder, crash_at=crash_at)

    def open(self, name: str = "box") -> InstanceRow:
        """A host that is open, but not set up: that takes seconds."""
        provider, clock = LocalProvider(self.state.provider("local")), SystemClock()
        with Ledger(self.state.ledger, clock) as ledger:
            [offer] = provider.offers(Wanted())
            plan = plan_for(offer, Wanted(), project="tests", image="", name=name)
            return Opener(provider, ledger, self.state, clock, lambda line: None).open(plan, None)

    def rows(self, *states: InstanceState) -> list[InstanceRow]:
        with Ledger(self.state.ledger, SystemClock()) as ledger:
            return ledger.instances(*states)

    def add_run(self, row: InstanceRow, run_id: str = "demo-1") -> Path:
        """A run in the ledger; returns its home here."""
        home = self.folder / "runs" / run_id
        with Ledger(self.state.ledger, SystemClock()) as ledger:
            ledger.add_run(
                RunRow(run_id, "demo", row.name, row.label, str(self.folder), str(home), 1.0, RunState.RUNNING, None,
                       True, 2)
            )  # fmt: skip
        return home

    def remote_home(self, row: InstanceRow) -> Path:
        assert row.instance_id is not None
        return self.state.provider("local") / row.instance_id / "home"

    def is_clean(self) -> bool:
        assert processes_of(self.state) == []
        assert files_of(self.state) == []
        assert self.rows() == []
        return True


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    require_programs()
    desk = Desk(state_paths(), tmp_path)
    yield desk
    provider = LocalProvider(desk.state.provider("local"))
    for instance in provider.labelled("gptops:"):
        provider.destroy(instance.instance_id)


# up


@pytest.mark.slow
def test_up_opens_a_host_that_is_ready_and_down_ends_it(desk: Desk) -> None:
    up = desk.gptops("up", "--name", "box")
    assert (up.exit_code, up.stdout) == (0, "box\n"), up.stderr
    told = ["cost: $0", "✓ created", "✓ SSH answers", "✓ set up", "`box` is ready at"]
    assert [word for word in told if word in up.stderr] == told
    [row] = json.loads(desk.gptops("ps", "--json").stdout)
    assert (row["name"], row["state"], row["cost_usd"]) == ("box", "open", 0.0)
    assert row["address"] in desk.gptops("ps").stdout
    down = desk.gptops("down", "--json")
    assert json.loads(down.stdout)["ended"][0]["name"] == "box"
    assert desk.is_clean()


def test_a_dry_run_touches_nothing(desk: Desk, golden: Callable[[str, str], None]) -> None:
    planned = desk.gptops("up", "--dry-run", "--name", "box", "--json")
    assert planned.exit_code == 0
    golden("launcher_up_dry_run.txt", planned.stderr + planned.stdout)
    assert not desk.state.root.exists() or not any(desk.state.root.iterdir())


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--provider", "ec2"], ExitCode.USAGE, "no provider `ec2`"),
        (["--gpus", "1000"], ExitCode.NO_OFFER, "1000 GPUs"),
        (["--name", "../../etc"], ExitCode.USAGE, "cannot be the name"),
        (["--host", "root@-oProxyCommand=id"], ExitCode.USAGE, "no host name"),
        (["--host", "nobody"], ExitCode.NOT_FOUND, "there is no host `nobody`"),
        (["--host", "a@b", "--provider", "local"], ExitCode.USAGE, "machine of yours"),
        (["--provider", "ssh"], ExitCode.USAGE, "no machine for the provider `ssh`"),
        (["--job", "demo"], ExitCode.NOT_FOUND, "no jobs.yaml"),
        (["--gpus", "-1"], ExitCode.USAGE, "--gpus"),
    ],
)
def test_what_up_cannot_do_is_said_before_anything_is_opened(
    desk: Desk, words: list[str], code: ExitCode, says: str
) -> None:
    refused = desk.gptops("up", *words)
    assert refused.exit_code == code
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_machine_that_is_not_reachable_is_given_back(desk: Desk, fresh_host: Callable[[], SshHost]) -> None:
    """The wrong key is a refusal at once; our own key is not known there."""
    host = fresh_host()
    (host.folder / "authorized_keys").write_text("")
    refused = desk.gptops("up", "--host", str(host.address), "--name", "box")
    assert refused.exit_code == ExitCode.HOST_REFUSED
    assert "refused our key" in refused.stderr
    assert "nothing is left open" in refused.stderr
    assert desk.is_clean()


def test_a_host_of_jobs_yaml_is_opened_by_its_name(desk: Desk, ssh_host: SshHost) -> None:
    address = ssh_host.address
    (desk.folder / "jobs.yaml").write_text(
        f"jobs: {{demo: {{stage: pretrain}}}}\n"
        f"hosts: {{gpubox: {{host: {address.host}, port: {address.port}, user: {address.user},"
        f" identity_file: '{ssh_host.state.private_key}'}}}}\n"
    )
    planned = desk.gptops("up", "--host", "gpubox", "--dry-run", "--json")
    assert json.loads(planned.stdout)["offer"] == f"gpubox ({address})"


CRASH_POINTS = [
    *("up:intended", "local:folder", "local:furnished", "local:started"),
    *("up:created", "up:recorded", "up:ready", "up:open"),
]


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_up_killed_anywhere_leaves_nothing_that_down_all_does_not_end(desk: Desk, point: str) -> None:
    killed = desk.gptops("up", "--name", "box", crash_at=point)
    assert killed.exit_code == -signal.SIGKILL
    assert [row.name for row in desk.rows()] == ["box"]
    down = desk.gptops("down", "--all")
    assert down.exit_code == 0, down.stderr
    assert desk.is_clean()


def test_the_next_up_ends_what_a_killed_one_left_and_its_name_is_free(desk: Desk) -> None:
    desk.gptops("up", "--name", "box", crash_at="up:created")
    assert processes_of(desk.state)
    assert "just being opened" in desk.gptops("ps").stderr
    again = desk.gptops("up", "--name", "box", crash_at="up:open")
    assert "ended `box`, which an interrupted gptops had left" in again.stderr
    assert [row.state for row in desk.rows()] == [InstanceState.OPEN]


@pytest.mark.slow
def test_up_killed_during_the_setup_leaves_a_host_that_down_ends(desk: Desk) -> None:
    process = gptops_in_background("up", "--name", "box", home=desk.state.root)
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"setup: using" in line:
                break
        process.kill()
    assert [row.state for row in desk.rows()] == [InstanceState.OPEN]
    assert desk.gptops("down", "box").exit_code == 0
    assert desk.is_clean()


@pytest.mark.slow
def test_ctrl_c_during_up_ends_the_machine(desk: Desk) -> None:
    process = gptops_in_background("up", "--name", "box", home=desk.state.root)
    with process:
        assert process.stderr is not None
        said = b""
        for line in process.stderr:
            said += line
            if b"setup: using" in line:
                os.killpg(process.pid, signal.SIGINT)
                break
        said += process.stderr.read()
    assert process.returncode == ExitCode.INTERRUPTED
    assert b"nothing is left open" in said
    assert b"Traceback" not in said
    assert desk.is_clean()


# ps


def test_ps_without_hosts_says_how_to_open_one_and_prints_no_data(desk: Desk) -> None:
    shown = desk.gptops("ps")
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "gptops up" in shown.stderr
    assert json.loads(desk.gptops("ps", "--json").stdout) == []


def test_ps_shows_what_a_host_has_cost_and_the_runs_on_it(desk: Desk) -> None:
    with Ledger(desk.state.ledger, SystemClock()) as ledger:
        ledger.intend_instance(
            label="gptops:p:1",
            name="dear",
            provider="vast",
            project="p",
            price_per_hour=36000.0,
            gpus=8,
            gpu_name="H100",
        )
        row = ledger.mark_instance("gptops:p:1", InstanceState.OPEN, address="root@h:22")
    desk.add_run(row)
    [shown] = json.loads(desk.gptops("ps", "--json").stdout)
    assert shown["cost_usd"] > 0
    assert shown["runs"] == ["demo-1 (running)"]
    assert "8x H100" in desk.gptops("ps").stdout


def test_ps_of_a_damaged_ledger_is_an_error_with_a_hint(desk: Desk) -> None:
    desk.state.ledger.parent.mkdir(parents=True, exist_ok=True)
    desk.state.ledger.write_bytes(b"garbage" * 1000)
    shown = desk.gptops("ps", "--json")
    assert shown.exit_code == ExitCode.LOCAL_FAULT
    assert "is damaged" in json.loads(shown.stdout)["error"]["what"]


# ssh


def test_ssh_passes_words_and_the_exit_code_through(desk: Desk) -> None:
    desk.open()
    several = desk.gptops("ssh", "box", "--", "printf", "%s\\0", *HOSTILE)
    assert several.stdout.split("\0")[:-1] == HOSTILE
    assert desk.gptops("ssh", "--", "exit 37").exit_code == 37
    one = desk.gptops("ssh", "box", "--", "cd / && pwd; echo $((1+1))")
    assert one.stdout == "/\n2\n"


def test_ssh_tells_a_program_what_a_command_wrote_or_how_to_connect(desk: Desk) -> None:
    desk.open()
    answer = desk.gptops("ssh", "--json", "box", "--", "echo out; echo err >&2; exit 255")
    said = {"host": "box", "exit_code": 255, "stdout": "out\n", "stderr": "err\n"}
    assert (answer.exit_code, json.loads(answer.stdout)) == (255, said)
    way = json.loads(desk.gptops("ssh", "--json").stdout)
    assert subprocess.run([*way["argv"], "echo", "there"], capture_output=True, timeout=60).stdout == b"there\n"


def test_ssh_needs_the_name_only_where_several_are_open(desk: Desk) -> None:
    desk.open("one")
    assert desk.gptops("ssh", "--", "true").exit_code == 0
    desk.open("two")
    unclear = desk.gptops("ssh", "--", "true")
    assert unclear.exit_code == ExitCode.USAGE
    assert "one, two" in unclear.stderr
    assert desk.gptops("ssh", "tw", "--", "true").exit_code == 0


def test_ssh_to_a_host_with_a_changed_key_shows_both_fingerprints(desk: Desk, ssh_host: SshHost) -> None:
    row = desk.open()
    known = desk.state.known_hosts("box")
    known.write_text(f"gptops-box {ssh_host.instance.host_key}\n")
    refused = desk.gptops("ssh", "--", "true")
    assert refused.exit_code == ExitCode.HOST_REFUSED
    assert refused.stderr.count("SHA256:") >= 2
    assert row.name in refused.stderr


def test_ssh_where_sshd_has_died_is_unreachable(desk: Desk) -> None:
    kill_sshd(desk, desk.open())
    lost = desk.gptops("ssh", "--", "true")
    assert lost.exit_code == ExitCode.UNREACHABLE
    assert "Traceback" not in lost.stderr


def kill_sshd(desk: Desk, row: InstanceRow) -> None:
    config = desk.remote_home(row).parent / "sshd_config"
    listener = sshd_process(config)
    assert listener is not None
    for process in [listener, *listener.children(recursive=True)]:
        process.kill()
    wait_until(lambda: sshd_process(config) is None, what="sshd is gone")


# down


def test_down_without_a_host_says_so(desk: Desk) -> None:
    assert desk.gptops("down").exit_code == ExitCode.NOT_FOUND
    everything = desk.gptops("down", "--all")
    assert everything.exit_code == 0
    assert "no host is open" in everything.stderr


def test_down_all_ends_every_host(desk: Desk) -> None:
    desk.open("one")
    desk.open("two")
    down = desk.gptops("down", "--all")
    assert down.exit_code == 0, down.stderr
    assert desk.is_clean()


@pytest.mark.parametrize("point", ["down:closing", "local:ended", "down:destroyed", "down:forgotten"])
def test_down_killed_anywhere_is_finished_by_the_next_one(desk: Desk, point: str) -> None:
    desk.open()
    assert desk.gptops("down", crash_at=point).exit_code == -signal.SIGKILL
    assert [row.state for row in desk.rows()] == [InstanceState.CLOSING]
    again = desk.gptops("down")
    assert again.exit_code == 0, again.stderr
    assert desk.is_clean()


def test_down_waits_for_nobody_who_works_on_the_host_but_says_who(desk: Desk) -> None:
    desk.open()
    for lock in (desk.state.host_lock("box"), desk.state.start_lock("box")):
        with hold(lock, "gptops train demo", SystemClock()):
            busy = desk.gptops("down")
        assert busy.exit_code == ExitCode.BUSY
        assert "gptops train demo" in busy.stderr
    assert [each.state for each in desk.rows()] == [InstanceState.OPEN]


def test_down_refuses_while_a_checkpoint_is_not_home_and_names_it(desk: Desk) -> None:
    row = desk.open()
    home = desk.add_run(row)
    there = a_finished_run(desk, row)
    write_checkpoint(there, 500)
    refused = desk.gptops("down")
    assert refused.exit_code == ExitCode.NOT_VERIFIED
    for word in ("step_00000500", "demo-1", "--sync-first", "--discard"):
        assert word in refused.stderr
    assert [each.state for each in desk.rows()] == [InstanceState.OPEN]
    content = tree(there / names(500)[0])
    saved = desk.gptops("down", "--sync-first")
    assert saved.exit_code == 0, saved.stderr
    assert tree(LocalRun(home).checkpoints / names(500)[0]) == content
    assert desk.is_clean()


def test_down_refuses_while_a_run_goes_on_and_discard_ends_it(desk: Desk) -> None:
    row = desk.open()
    desk.add_run(row)
    home = desk.remote_home(row)
    host = SshHost(desk.state, LocalProvider(desk.state.provider("local")), an_instance(desk, row), None)  # type: ignore[arg-type]
    training(host, "demo-1", "import time; time.sleep(1000)")
    script = str(RemoteRun("demo-1").run_script)
    started = desk.gptops("ssh", "--", "sh", script, "start", "1")
    assert "alive=yes" in started.stdout, started.stderr
    refused = desk.gptops("down")
    assert refused.exit_code == ExitCode.NOT_VERIFIED
    assert "run `demo-1` is still going" in refused.stderr
    assert home.exists()
    assert desk.gptops("down", "--discard").exit_code == 0
    assert desk.is_clean()
    with Ledger(desk.state.ledger, SystemClock()) as ledger:
        assert ledger.run("demo-1").state is RunState.ENDED


def a_finished_run(desk: Desk, row: InstanceRow) -> Path:
    """A run that has ended on the host; returns its checkpoints folder there."""
    host = SshHost(desk.state, LocalProvider(desk.state.provider("local")), an_instance(desk, row), None)  # type: ignore[arg-type]
    ended(host, "demo-1")
    return desk.remote_home(row) / RemoteRun("demo-1").checkpoints


def an_instance(desk: Desk, row: InstanceRow) -> object:
    assert row.instance_id is not None
    return LocalProvider(desk.state.provider("local")).get(row.instance_id)


def test_a_host_that_does_not_answer_is_ended_only_with_discard(desk: Desk) -> None:
    row = desk.open()
    desk.add_run(row)
    kill_sshd(desk, row)
    refused = desk.gptops("down")
    assert refused.exit_code == ExitCode.UNREACHABLE
    assert "--discard" in refused.stderr
    assert desk.gptops("down", "--discard").exit_code == 0
    assert desk.is_clean()


def test_a_host_that_vanished_is_closed_and_said(desk: Desk) -> None:
    row = desk.open()
    desk.add_run(row)
    assert row.instance_id is not None
    LocalProvider(desk.state.provider("local")).destroy(row.instance_id)
    closed = desk.gptops("down")
    assert closed.exit_code == 0, closed.stderr
    assert "was gone already" in closed.stderr
    assert desk.is_clean()


def test_a_static_machine_is_forgotten_and_goes_on(desk: Desk, fresh_host: Callable[[], SshHost]) -> None:
    host = fresh_host()
    subprocess.run(["cp", "-r", str(host.state.private_key.parent), str(desk.state.root)], check=True)
    killed = desk.gptops("up", "--host", str(host.address), "--name", "mine", crash_at="up:open")
    assert killed.exit_code == -signal.SIGKILL
    down = desk.gptops("down", "mine")
    assert down.exit_code == 0
    assert "it is yours" in down.stderr
    assert sshd_process(host.folder / "sshd_config") is not None
    assert desk.rows() == []


def test_contradicting_words_are_a_usage_error(desk: Desk) -> None:
    for words in (["box", "--all"], ["--sync-first", "--discard"]):
        assert desk.gptops("down", *words).exit_code == ExitCode.USAGE
