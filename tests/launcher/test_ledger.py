"""The ledger: on the disk before it returns, shared by processes, and clear about damage."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.books.ledger import ErrandState, InstanceRow, InstanceState, Ledger, NodeRow, RunRow, RunState
from launcher.books.schema import SCHEMA, UPGRADES
from launcher.books.spending import spent_in_all
from launcher.clock import Clock
from launcher.errors import LocalFault, NotFound, UsageError
from tests.conftest import FakeClock

SHA = "a" * 64


def intend(ledger: Ledger, label: str = "gptops:p:1", name: str = "local-1") -> InstanceRow:
    return ledger.intend_instance(
        label=label, name=name, provider="local", project="p", price_per_hour=1.5, gpus=8, gpu_name="H100"
    )


def a_run(run_id: str = "demo-1", label: str = "gptops:p:1", created_at: float = 1.0) -> RunRow:
    return RunRow(run_id, "demo", "local-1", label, "/p", "/p/runs/x", created_at, RunState.PREPARING, None, True, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite3"


@pytest.fixture
def ledger(path: Path, fake_clock: Clock) -> Ledger:
    return Ledger(path, fake_clock)


def test_an_intent_is_there_for_the_next_process(ledger: Ledger, path: Path, fake_clock: Clock) -> None:
    row = intend(ledger)
    with Ledger(path, fake_clock) as other:
        assert other.instances(InstanceState.INTENDED) == [row]


def test_an_intent_survives_a_kill_right_after_it(path: Path, fake_clock: Clock) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from launcher.clock import SystemClock;"
        "from launcher.books.ledger import Ledger; ledger = Ledger(Path(sys.argv[1]), SystemClock());"
        "ledger.intend_instance(label='gptops:p:k', name='k', provider='local', project='p', price_per_hour=0, gpus=0,"
        " gpu_name=''); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path)])
    assert killed.returncode == -signal.SIGKILL
    with Ledger(path, fake_clock) as ledger:
        assert [row.name for row in ledger.instances()] == ["k"]


def test_an_instance_goes_its_way_and_keeps_what_is_known(ledger: Ledger) -> None:
    intend(ledger)
    ledger.mark_instance("gptops:p:1", InstanceState.INTENDED, instance_id="i-1", price_per_hour=2.0)
    row = ledger.mark_instance("gptops:p:1", InstanceState.OPEN, address="root@h:22")
    assert (row.instance_id, row.price_per_hour, row.address, row.closed_at) == ("i-1", 2.0, "root@h:22", None)
    row = ledger.mark_instance("gptops:p:1", InstanceState.CLOSED)
    assert row.closed_at is not None
    assert ledger.instances() == []
    assert ledger.instances(InstanceState.CLOSED) == [row]


def test_a_name_is_free_again_when_its_host_is_closed(ledger: Ledger) -> None:
    intend(ledger, "gptops:p:1")
    with pytest.raises(UsageError, match="`local-1` is open already"):
        intend(ledger, "gptops:p:2")
    ledger.mark_instance("gptops:p:1", InstanceState.CLOSED)
    assert intend(ledger, "gptops:p:2").name == "local-1"


def test_runs_are_found_by_id_and_by_instance(ledger: Ledger) -> None:
    ledger.add_run(a_run("demo-1", created_at=2.0))
    ledger.add_run(a_run("demo-0", label="gptops:p:2", created_at=1.0))
    assert [run.run_id for run in ledger.runs()] == ["demo-0", "demo-1"]
    assert [run.run_id for run in ledger.runs(instance_label="gptops:p:1")] == ["demo-1"]
    ended = ledger.mark_run("demo-1", RunState.ENDED, exit_code=0)
    assert (ended.state, ended.exit_code) == (RunState.ENDED, 0)
    with pytest.raises(UsageError):
        ledger.add_run(a_run("demo-1"))


def test_what_is_not_there_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.run("nothing")
    with pytest.raises(NotFound):
        ledger.instance("nothing")
    with pytest.raises(NotFound):
        ledger.mark_run("nothing", RunState.ENDED)


def test_a_checkpoint_recorded_again_stays_as_it_was(ledger: Ledger) -> None:
    ledger.add_run(a_run())
    first = ledger.record_checkpoint("demo-1", 500, SHA, 10)
    ledger.mark_pruned("demo-1", 500)
    assert ledger.record_checkpoint("demo-1", 500, SHA, 10).pruned_at is not None
    [row] = ledger.checkpoints("demo-1")
    assert (row.step, row.bytes, row.synced_at) == (500, 10, first.synced_at)


def test_another_checkpoint_of_the_same_step_replaces_the_record(ledger: Ledger) -> None:
    ledger.add_run(a_run())
    ledger.record_checkpoint("demo-1", 500, SHA, 10)
    ledger.mark_pruned("demo-1", 500)
    ledger.record_checkpoint("demo-1", 500, "b" * 64, 11)
    [row] = ledger.checkpoints("demo-1")
    assert (row.manifest_sha256, row.pruned_at) == ("b" * 64, None)


def test_many_processes_write_at_once_and_nothing_is_lost(path: Path, fake_clock: Clock) -> None:
    program = (
        "import sys; from pathlib import Path; from launcher.clock import SystemClock\n"
        "from launcher.books.ledger import *\n"
        "for i in range(20):\n"
        "    with Ledger(Path(sys.argv[1]), SystemClock()) as ledger:\n"
        "        ledger.add_run(RunRow(f'{sys.argv[2]}-{i}', 'j', 'h', 'l', '/p', '/r', 0.0, RunState.RUNNING, None,"
        " True, 2))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path), str(number)]) for number in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    with Ledger(path, fake_clock) as ledger:
        assert len(ledger.runs()) == 80


def test_a_newer_ledger_is_refused_and_left_alone(ledger: Ledger, path: Path, fake_clock: Clock) -> None:
    ledger.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LocalFault, match="newer gptops") as raised:
        Ledger(path, fake_clock)
    assert "99" in raised.value.why
    assert raised.value.hint


def test_a_file_that_is_no_database_is_damage(path: Path, fake_clock: Clock) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database, and longer than a header of a hundred bytes" * 10)
    with pytest.raises(LocalFault, match="is damaged") as raised:
        Ledger(path, fake_clock)
    assert "mv" in raised.value.hint


def everything_in(ledger: Ledger) -> None:
    """Read every table, and reckon with what is in it."""
    for row in ledger.instances(*InstanceState):
        ledger.prices(row.label), ledger.transferred(row.label)
    for run in ledger.runs():
        ledger.checkpoints(run.run_id)
    ledger.bad_machines("vast"), ledger.errands()
    spent_in_all(ledger, ledger._clock.now())


def test_flipped_bytes_are_damage_and_never_a_traceback(path: Path, fake_clock: Clock) -> None:
    with Ledger(path, fake_clock) as ledger:
        for number in range(20):
            row = intend(ledger, f"gptops:p:{number}", f"n{number}")
            ledger.add_run(a_run(f"demo-{number}", row.label))
            ledger.record_checkpoint(f"demo-{number}", 5, SHA, 10)
            ledger.record_transfer(row.label, "down", 10)
        ledger.ban_machine("vast", "m-1", "no GPUs")
        ledger.add_errand("e-1", "/p", "{}")
    whole = path.read_bytes()
    assert len(whole) > 40_000
    faults = []
    for offset in range(0, len(whole), 389):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0xFF]) + whole[offset + 1 :])
        try:
            with Ledger(path, fake_clock) as ledger:
                everything_in(ledger)
        except LocalFault as fault:
            faults.append(fault)
    assert faults
    assert all(fault.hint for fault in faults)


def test_a_value_of_another_kind_is_damage(ledger: Ledger, path: Path, fake_clock: Clock) -> None:
    """SQLite itself would not mind."""
    intend(ledger)
    ledger.close()
    for table, column, value in (("instances", "gpus", "'many'"), ("prices", "gpu_per_hour", "9e999")):
        with sqlite3.connect(path) as db:
            [before] = db.execute(f"SELECT {column} FROM {table}").fetchone()
            db.execute(f"UPDATE {table} SET {column} = {value}")
        db.close()
        with Ledger(path, fake_clock) as damaged, pytest.raises(LocalFault, match="is damaged"):
            everything_in(damaged)
        with sqlite3.connect(path) as db:
            db.execute(f"UPDATE {table} SET {column} = ?", (before,))
        db.close()


def test_a_ledger_of_the_first_version_is_upgraded_where_it_lies(path: Path, fake_clock: Clock) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.executescript(SCHEMA + "PRAGMA user_version = 1;")
        db.execute(
            "INSERT INTO instances VALUES ('gptops:p:1', 'old', 'local', 'p', 'open', 'i-1', 1.5, 8, 'H100', 'a', 1.0,"
            " NULL)"
        )
        db.execute("INSERT INTO runs VALUES ('demo-1', 'demo', 'old', 'gptops:p:1', '/p', '/r', 2.0, 'ended', 0, 1, 2)")
    db.close()
    with Ledger(path, fake_clock) as ledger:
        [row] = ledger.instances()
        assert (row.name, row.price_per_hour, row.spot, row.deadline, row.disk_per_hour) == ("old", 1.5, False, None, 0)
        assert ledger.run("demo-1").ended_at is None
        assert ledger.prices(row.label) == []
        ledger.record_price(row.label, 2.0, 0.1)
        ledger.add_errand("e-1", "/p", "{}")
    with Ledger(path, fake_clock) as again:
        assert again.instance("gptops:p:1").price_per_hour == 2.1


def test_what_is_known_of_a_market_is_kept(ledger: Ledger) -> None:
    row = ledger.intend_instance(
        label="gptops:p:2", name="m", provider="vast", project="p", price_per_hour=2.5, gpus=8, gpu_name="H100",
        machine_id="m-7", spot=True, disk_per_hour=0.5, upload_usd_per_gb=0.01, download_usd_per_gb=0.02,
    )  # fmt: skip
    assert ledger.instance(row.label) == row
    assert (row.machine_id, row.spot, row.disk_per_hour, row.download_usd_per_gb) == ("m-7", True, 0.5, 0.02)
    assert ledger.set_deadline(row.label, 99.0).deadline == 99.0


def test_a_price_is_a_row_only_when_it_changed(ledger: Ledger, fake_clock: FakeClock) -> None:
    row = intend(ledger)
    fake_clock.advance(10)
    ledger.record_price(row.label, 1.5, 0.0)
    ledger.mark_instance(row.label, InstanceState.OPEN, price_per_hour=1.5)
    assert len(ledger.prices(row.label)) == 1
    ledger.mark_instance(row.label, InstanceState.OPEN, price_per_hour=2.0, disk_per_hour=0.5)
    fake_clock.advance(10)
    ledger.record_price(row.label, 0.0, 0.5)
    assert [(price.gpu_per_hour, price.disk_per_hour) for price in ledger.prices(row.label)] == [
        (1.5, 0.0), (1.5, 0.5), (0.0, 0.5),
    ]  # fmt: skip
    assert ledger.instance(row.label).price_per_hour == 2.0, "what it would cost when it runs again"


def test_transfers_are_kept_for_machines_that_are_known(ledger: Ledger) -> None:
    row = intend(ledger)
    ledger.record_transfer(row.label, "down", 5)
    ledger.record_transfer(row.label, "up", 0)
    ledger.record_transfer("gptops:p:nobody", "up", 5)
    assert [(moved.direction, moved.bytes) for moved in ledger.transferred(row.label)] == [("down", 5)]
    assert ledger.transferred("gptops:p:nobody") == []


def test_a_bad_machine_is_remembered_with_its_newest_reason(ledger: Ledger) -> None:
    ledger.ban_machine("vast", "m-1", "no GPUs")
    ledger.ban_machine("vast", "m-1", "SSH dead")
    ledger.ban_machine("vast", "", "a market that names no machines")
    assert ledger.bad_machines("vast") == {"m-1": "SSH dead"}
    assert ledger.bad_machines("runpod") == {}


def test_an_errand_goes_on_where_it_was(ledger: Ledger) -> None:
    ledger.add_errand("e-1", "/p", '{"job": "demo"}')
    with pytest.raises(UsageError):
        ledger.add_errand("e-1", "/p", "{}")
    assert ledger.mark_errand("e-1", content='{"run": "demo-1"}').state is ErrandState.GOING
    assert [row.content for row in ledger.errands(ErrandState.GOING)] == ['{"run": "demo-1"}']
    assert ledger.mark_errand("e-1", state=ErrandState.ENDED).ended_at is not None
    assert ledger.errands(ErrandState.GOING) == []
    with pytest.raises(NotFound):
        ledger.errand("e-2")


def test_a_run_ends_once_and_one_that_goes_on_has_not_ended(ledger: Ledger, fake_clock: FakeClock) -> None:
    ledger.add_run(a_run())
    first = ledger.mark_run("demo-1", RunState.ENDED).ended_at
    fake_clock.advance(60)
    assert ledger.mark_run("demo-1", RunState.ENDED, exit_code=0).ended_at == first
    assert ledger.mark_run("demo-1", RunState.RUNNING).ended_at is None


def test_an_end_can_be_written_down_as_of_an_earlier_moment(ledger: Ledger) -> None:
    intend(ledger)
    assert ledger.mark_instance("gptops:p:1", InstanceState.CLOSED, closed_at=5.0).closed_at == 5.0


def test_a_state_that_does_not_exist_is_damage(path: Path, fake_clock: Clock) -> None:
    with Ledger(path, fake_clock) as ledger:
        intend(ledger)
    path.write_bytes(path.read_bytes().replace(b"intended", b"intendex"))
    with pytest.raises(LocalFault, match="is damaged"):
        Ledger(path, fake_clock).instances()


def test_a_folder_that_cannot_be_written_is_a_local_fault(tmp_path: Path, fake_clock: Clock) -> None:
    (tmp_path / "in-the-way").write_text("a file")
    with pytest.raises(LocalFault, match="cannot be used") as raised:
        Ledger(tmp_path / "in-the-way" / "ledger.sqlite3", fake_clock)
    assert "GPTOPS_HOME" in raised.value.hint


def test_only_its_owner_can_read_it(ledger: Ledger, path: Path) -> None:
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_it_costs_no_heavy_import() -> None:
    program = (
        "import sys, launcher.books.ledger, launcher.running.select, launcher.cli.hosts;"
        "print([m for m in ('pydantic','paramiko','fabric','yaml','psutil','rich','torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.strip() == "[]", done.stderr


def test_a_run_on_several_nodes_is_one_run_of_each_of_their_hosts(ledger: Ledger) -> None:
    run = a_run()
    nodes = [NodeRow(run.run_id, number, f"host{number}", f"gptops:p:{number}") for number in range(2)]
    nodes[0] = NodeRow(run.run_id, 0, run.host_name, run.instance_label)
    ledger.add_run(run, nodes)
    assert ledger.nodes(run.run_id) == nodes
    assert ledger.runs() == ledger.runs(instance_label=run.instance_label) == ledger.runs(instance_label="gptops:p:1")
    assert ledger.runs(instance_label="gptops:p:2") == []


def test_a_run_on_one_machine_has_no_nodes(ledger: Ledger) -> None:
    ledger.add_run(a_run())
    assert ledger.nodes("demo-1") == []


def test_a_ledger_of_the_second_version_is_upgraded_where_it_lies(path: Path, fake_clock: Clock) -> None:
    """What was written by then is read, and the machines in it belong to no group."""
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.executescript(SCHEMA + UPGRADES[2] + "PRAGMA user_version = 2;")
        db.execute(
            "INSERT INTO instances (label, name, provider, project, state, price_per_hour, gpus, gpu_name, created_at)"
            " VALUES ('gptops:p:1', 'box', 'ssh', 'p', 'open', 0, 0, '', 1.0)"
        )
    db.close()
    with Ledger(path, fake_clock) as ledger:
        [row] = ledger.instances()
        assert (row.name, row.group_name, row.inside) == ("box", "", "")
        assert ledger.runs(instance_label="gptops:p:1") == []
