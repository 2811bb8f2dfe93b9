"""Money of a run on several machines: every one of them counts, in its budget, its line of `cost`, and its switches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, NodeRow, RunRow, RunState
from launcher.books.spending import lives, spent_in_all, spent_on_run
from launcher.books.statement import By, statement, total
from launcher.checkpoints.parts import one_listing
from launcher.checkpoints.pull import Pulled
from launcher.checkpoints.remote_checkpoints import Listing, RemoteCheckpoint
from launcher.checkpoints.sync import SyncPass
from launcher.cli import main
from launcher.cli.managed import _left
from launcher.clock import SystemClock
from launcher.errors import Unreachable
from launcher.managed import errand as errands
from launcher.managed import loop, machines, turns
from launcher.managed.outside import Outside
from launcher.managed.verdict import Action, Decision, Facts
from launcher.managed.view import view_of
from launcher.paths import StatePaths, state_paths
from launcher.project import find_project
from launcher.providers.base import Instance, Status
from launcher.remote.host import Address, Host
from launcher.remote.several import Gone, Several
from launcher.remote.transport import Command, Result, Transport
from launcher.running import tick
from launcher.running.status import Phase, RunStatus
from launcher.running.tick import Talk, Watched, watching
from launcher.spec.jobs import JobSpec
from launcher.spec.jobs_file import load_jobs
from tests.conftest import FakeClock
from trainer.manifest import FileEntry, Manifest, step_name

HOUR = 3600.0
JOBS = "jobs: {big: {stage: pretrain, budget: {max_usd: 80}}}\n"


@pytest.fixture
def ledger(tmp_path: Path, fake_clock: FakeClock) -> Iterator[Ledger]:
    """Two machines at $3 and $5 an hour, the run `big-1` on both since one hour, and a third that has no run."""
    (tmp_path / "jobs.yaml").write_text(JOBS)
    with Ledger(state_paths().ledger, fake_clock) as ledger:
        rows = [machine(ledger, name, price) for name, price in (("a", 3.0), ("b", 5.0), ("c", 7.0))]
        run = RunRow(
            "big-1", "big", "a", rows[0].label, str(tmp_path), str(tmp_path / "run"), fake_clock.now(),
            RunState.RUNNING, None, True, 2,
        )  # fmt: skip
        ledger.add_run(run, [NodeRow("big-1", node, row.name, row.label) for node, row in enumerate(rows[:2])])
        fake_clock.advance(HOUR)
        yield ledger


def machine(ledger: Ledger, name: str, price: float) -> InstanceRow:
    row = ledger.intend_instance(
        label=f"gptops:p:{name}", name=name, provider="vast", project="p", price_per_hour=price, gpus=8, gpu_name="H",
        download_usd_per_gb=1.0, group_name="lan",
    )  # fmt: skip
    return ledger.mark_instance(row.label, InstanceState.OPEN, instance_id=f"i-{name}")


def test_a_run_costs_what_all_its_machines_cost(ledger: Ledger, fake_clock: FakeClock) -> None:
    assert spent_on_run(ledger, ledger.run("big-1"), fake_clock.now()).total == pytest.approx(8.0)


def test_every_statement_names_the_run_once_and_each_machine_once(ledger: Ledger, fake_clock: FakeClock) -> None:
    now = fake_clock.now()
    every = lives(ledger, now)
    whole = spent_in_all(ledger, now).total
    assert whole == pytest.approx(15.0)
    for by in By:
        assert total(statement(ledger, every, now, by)).total == pytest.approx(whole), by
    assert [line.name for line in statement(ledger, every, now, By.HOST)] == ["a", "b", "c"]
    of_run, idle = statement(ledger, every, now, By.RUN)
    assert (of_run.name, of_run.host, of_run.hours) == ("big-1", "a, b", pytest.approx(1.0))
    assert of_run.spent.total == pytest.approx(8.0)
    assert (idle.name, idle.host) == ("", "c")


def test_cost_holds_all_machines_against_the_cap(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    # `gptops cost` has its own clock: as if everything had begun an hour before it.
    ledger._db.execute("UPDATE runs SET created_at = ?", (SystemClock().now() - HOUR,))
    ledger._db.execute("UPDATE instances SET created_at = ?", (SystemClock().now() - HOUR,))
    ledger._db.execute("UPDATE prices SET since = ?", (SystemClock().now() - HOUR,))
    assert main(["cost", "--by", "run", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)["lines"][0]
    assert line["total_usd"] == pytest.approx(8.0, abs=0.5)
    assert line["hours_left"] == pytest.approx(9.0, abs=0.2), "$72 at $8 an hour"


class Box:
    """A machine that remembers what was fed to its switch, and says when it ends itself."""

    def __init__(self, name: str, final_left: int) -> None:
        self.host = Host(name, (), Path(), Path())
        self.final_left = final_left
        self.fed: list[str] = []
        self.is_silent = False

    def run(self, command: Command, *, timeout_seconds: float = 60.0) -> Result:
        if self.is_silent:
            raise Unreachable("no answer")
        if "stop" in command.argv:
            return Result(0, "phase=ended\nexit_code=75\nattempt=1\nend=yes\n", "")
        self.fed.append(command.stdin.decode())
        return Result(0, f"phase=armed\nwatching=yes\ncan_end=yes\nfinal_left={self.final_left}\nend=yes\n", "")


@pytest.fixture
def boxes() -> list[Box]:
    return [Box("a", 1000), Box("b", 2000)]


@pytest.fixture
def several(boxes: list[Box]) -> Several:
    return Several(boxes)  # type: ignore[arg-type]


@pytest.fixture
def watched(ledger: Ledger, fake_clock: FakeClock) -> Iterator[Watched]:
    talk = Talk(lambda *_: nullcontext(lambda _done: None), lambda _pulled: None, lambda _line: None)
    with watching(
        ledger.run("big-1"), ledger, state=StatePaths(state_paths().root), clock=fake_clock, talk=talk, what="a test",
        max_usd=10.0,
    ) as watched:  # fmt: skip
        yield watched


def a_part(number: int, name: str) -> RemoteCheckpoint:
    manifest = Manifest(5, {name: FileEntry(1, hashlib.sha256(b"w").hexdigest())}, part=number, parts=2, save="s")
    return RemoteCheckpoint(5, manifest.to_json(), manifest)


def test_every_switch_hears_of_its_own_part_and_every_deadline_is_kept(
    ledger: Ledger, watched: Watched, boxes: list[Box], several: Several, fake_clock: FakeClock
) -> None:
    """A switch waits for the hash of the manifest that lies on its own machine: of a part, the part's."""
    parts = [a_part(0, "w0"), a_part(1, "w1")]
    listing = one_listing(("a", "b"), [Listing(parts=(part,)) for part in parts])
    tick._visit(watched, several, SyncPass(listing))
    assert [box.fed for box in boxes] == [[f"{step_name(5)} {part.manifest_sha256}\n"] for part in parts]
    now = fake_clock.now()
    assert [ledger.instance(f"gptops:p:{name}").deadline for name in "abc"] == [now + 1000, now + 2000, None]


def test_a_node_that_is_lost_keeps_no_other_from_being_visited(
    ledger: Ledger, watched: Watched, boxes: list[Box], several: Several
) -> None:
    boxes[0].is_silent = True
    tick._visit(watched, several, SyncPass(Listing()))
    assert [len(box.fed) for box in boxes] == [0, 1]
    gone = Several([Gone(boxes[0].host), boxes[1]])  # type: ignore[list-item]
    tick._visit(watched, gone, SyncPass(Listing()))
    assert len(boxes[1].fed) == 2


def test_bytes_are_counted_where_they_came_from(ledger: Ledger, watched: Watched) -> None:
    pulled = Pulled(5, step_name(5), 3_000_000_000, 1.0, Path(), ((0, 1_000_000_000), (1, 2_000_000_000)))
    tick._came(watched, pulled)
    came = [sum(each.bytes for each in ledger.transferred(f"gptops:p:{name}")) for name in "abc"]
    assert came == [1_000_000_000, 2_000_000_000, 0]
    assert spent_on_run(ledger, watched.run, watched.clock.now()).bandwidth == pytest.approx(3.0)


def test_the_dollars_of_all_machines_stop_the_run(watched: Watched, several: Several, fake_clock: FakeClock) -> None:
    """$10 at $8 an hour: node 0 alone would go on for more than three hours."""
    going = RunStatus(Phase.RUNNING, alive=True)
    assert tick._enforce_budget(watched, several, going) == ""
    fake_clock.advance(0.25 * HOUR)
    assert tick._enforce_budget(watched, several, going) == "it has used its $10.00"


class Market:
    """Knows every machine."""

    def get(self, instance_id: str) -> Instance:
        return Instance(instance_id, "", Status.RUNNING, (Address(instance_id, 22, "root"),), 0.0)


@dataclass
class Heard:
    """What was done to machines, and what was said."""

    armed: list[tuple[str, float | None]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def outside(ledger: Ledger, fake_clock: FakeClock, tmp_path: Path, heard: Heard) -> Outside:
    """Of an errand whose machine is `a`, with its group; `b` is out of reach."""

    def guard(job: JobSpec, row: InstanceRow, transport: Transport, hours: float | None) -> InstanceRow:
        if row.name == "b":
            raise Unreachable("no answer from `b`", why="timed out")
        heard.armed.append((row.name, hours))
        return row

    talk = Talk(lambda *_: nullcontext(lambda _done: None), lambda _pulled: None, heard.said.append)
    return Outside(
        ledger=ledger, state=state_paths(), clock=fake_clock, project=find_project(tmp_path),
        jobs=load_jobs(tmp_path / "jobs.yaml"), environment={},
        provider=lambda name: Market(),  # type: ignore[arg-type, return-value]
        connect=lambda host: Several([]), rent=lambda wish: ledger.instance("gptops:p:a"),
        examine=lambda row, transport: [], guard=guard, talk=talk, show=lambda view: None, notify=lambda news: None,
    )  # fmt: skip


def test_an_errand_pays_for_its_whole_group_from_its_own_beginning_on(
    outside: Outside, ledger: Ledger, fake_clock: FakeClock, tmp_path: Path
) -> None:
    """The group was open for an hour when the errand took it: those $15 are not the job's."""
    errand = loop.rent(errands.begin(ledger, tmp_path, ["big", "big"]), outside)
    assert errand.labels == ("gptops:p:a", "gptops:p:b", "gptops:p:c")
    assert outside.spent(errand) == pytest.approx(0.0)
    fake_clock.advance(2 * HOUR)
    assert outside.spent(errand) == pytest.approx(30.0)
    assert loop.taken(errand, outside) == errand, "taken again after a kill, nothing is counted twice"

    second = turns.finished(errand, outside, Decision(Action.FINISH), Facts())
    fake_clock.advance(HOUR)
    assert second.labels == errand.labels
    assert outside.spent(second) == pytest.approx(15.0)


def test_every_machine_of_a_group_ends_itself_when_the_money_of_all_is_used_up(
    outside: Outside, ledger: Ledger, tmp_path: Path, heard: Heard
) -> None:
    errand = loop.rent(errands.begin(ledger, tmp_path, ["big"]), outside)
    machines.guard(ledger.instance(errand.label), errand, outside, Several([]))
    assert heard.armed == [("a", pytest.approx(80 / 15)), ("c", pytest.approx(80 / 15))]
    assert heard.said == ["no answer from `b`: timed out"]


def test_what_is_left_behind_names_all_machines_and_the_one_command_that_ends_them(
    outside: Outside, ledger: Ledger, tmp_path: Path
) -> None:
    errand = loop.rent(errands.begin(ledger, tmp_path, ["big"]), outside)
    words = _left(errand, ledger)
    assert words.startswith("`a`, `b`, `c` are open, for $15.00/h; ")
    assert words.endswith("`gptops down lan --sync-first`")
    errand = errand.now(run_id="big-1", step=errands.Step.WATCH)
    assert _left(errand, ledger).startswith("`big-1` goes on on `a`, `b`, for $15.00/h; ")
    rows, names = outside.machines(errand), outside.names(errand)
    view = view_of(errand, rows, Facts(), names=names, spent=1.0, limit=80.0, newest=-1, now=0.0)
    assert (view.host, view.price) == ("a, b", "$15.00/h"), "the spare one bills too"
