"""What Slurm is told and what it says, without a Slurm: the words of a job, its wait, which host is a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunRow, RunState
from launcher.errors import NotFound, Unreachable
from launcher.managed.errand import Crash
from launcher.managed.verdict import KILLED, Action, Facts, verdict
from launcher.paths import LocalRun, StatePaths
from launcher.running.launch_plan import LaunchPlan
from launcher.running.launch_request import LaunchRequest, plan_of
from launcher.running.status import Phase, RunStatus, parse_status
from launcher.slurm.asking import queued
from launcher.slurm.clusters import cluster_for
from launcher.slurm.job import SlurmJob, job_of, nodes_in
from launcher.slurm.queue import LONGEST_PAUSE_SECONDS, await_start
from launcher.spec.jobs import HostSpec
from launcher.spec.slurm import SlurmSpec, seconds_of
from tests.conftest import FakeClock


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (SlurmJob("7", "RUNNING", "None"), "job 7 is RUNNING"),
        (SlurmJob("7", "PENDING", "Resources", "2 of 5 in gpu"),
         "job 7 is PENDING (Resources: no free machines yet), 2 of 5 in gpu"),
        (SlurmJob("7", "PENDING", "QOSMaxGRESPerUser"), "job 7 is PENDING (QOSMaxGRESPerUser)"),
        (SlurmJob("7", "OUT_OF_MEMORY", "OutOfMemory"), "job 7 is OUT_OF_MEMORY (OutOfMemory)"),
        (SlurmJob("7", "GONE", "slurm_load_jobs error: Invalid job id specified"),
         "Slurm knows no job 7 (any more)"),
        (SlurmJob("7", "UNKNOWN", "Unable to contact slurm controller"),
         "Slurm does not answer: Unable to contact slurm controller"),
    ],
)  # fmt: skip
def test_a_job_is_told_in_one_line_with_slurms_own_words(job: SlurmJob, words: str) -> None:
    assert job.words() == words


def test_a_job_is_stuck_where_waiting_alone_does_not_help() -> None:
    assert SlurmJob("7", "PENDING", "JobHeldUser").is_stuck
    assert not SlurmJob("7", "PENDING", "Priority").is_stuck
    assert not SlurmJob("7", "RUNNING", "JobHeldUser").is_stuck


def test_a_status_without_a_scheduler_has_no_job_and_one_with_it_has() -> None:
    assert job_of({"phase": "running"}) is None
    facts = {"phase": "starting", "alive": "yes", "attempt": "1", "job_id": "7", "job_state": "PENDING"}
    status = parse_status({**facts, "job_reason": "Priority", "job_position": "1 of 1 in gpu"})
    assert status.phase is Phase.QUEUED
    assert status.job == SlurmJob("7", "PENDING", "Priority", "1 of 1 in gpu")


def test_the_wait_is_told_when_it_changes_and_ends_when_the_job_begins() -> None:
    clock, said = FakeClock(), list[str]()
    waiting, nearer = (
        SlurmJob("7", "PENDING", "Priority", "2 of 2 in gpu"),
        SlurmJob("7", "PENDING", "Priority", "1 of 1"),
    )
    looks = iter([waiting, waiting, nearer, *[nearer] * 20, SlurmJob("7", "RUNNING")])
    await_start(lambda: next(looks), "demo-1", said.append, clock)
    assert len(said) == 2
    assert "`demo-1` waits: job 7 is PENDING (Priority: others come first), 2 of 2 in gpu" in said[0]
    assert max(clock.slept) == LONGEST_PAUSE_SECONDS, "the controller serves others too"


def test_a_job_that_will_not_start_is_told_with_what_takes_it_back() -> None:
    said = list[str]()
    looks = iter([SlurmJob("7", "PENDING", "PartitionTimeLimit"), None])
    await_start(lambda: next(looks), "demo-1", said.append, FakeClock())
    assert said[0].endswith("it will not start by itself, `gptops stop demo-1` cancels it")


def test_a_job_that_is_held_is_told_with_what_lets_it_go() -> None:
    said = list[str]()
    looks = iter([SlurmJob("7", "PENDING", "launch_failed_requeued_held"), None])
    await_start(lambda: next(looks), "demo-1", said.append, FakeClock())
    assert "`scontrol release 7` on the cluster lets it go, `gptops stop demo-1` cancels it" in said[0]


def test_nobody_waits_for_a_host_that_does_not_answer() -> None:
    def look() -> SlurmJob:
        raise Unreachable("cut")

    await_start(look, "demo-1", lambda _text: pytest.fail("nothing is known"), FakeClock())


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("10:30", 630), ("2:00:00", 7200), ("1-0", 86400), ("1-12", 129600), ("1-12:30", 131400),
     ("2-00:00:05", 172805)],
)  # fmt: skip
def test_a_time_limit_is_read_as_slurm_reads_it(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize("time", ["", "1h", "1-", "1:2:3:4", "-5", "1 day"])
def test_what_slurm_would_not_take_for_a_time_is_refused(time: str) -> None:
    with pytest.raises(ValueError, match="is none of MINUTES"):
        seconds_of(time)


ENDED = RunStatus(Phase.ENDED, exit_code=75, step=5)
NOT_REQUEUED = replace(ENDED, job=SlurmJob("7", "FAILED", not_requeued="requeue is disabled"))
GONE = RunStatus(Phase.LOST, attempt=1, step=5, job=SlurmJob("7", "GONE"))


@pytest.mark.parametrize(
    ("facts", "action"),
    [
        (Facts(run=None, silent_seconds=9e9), Action.WAIT),
        (Facts(run=RunStatus(Phase.QUEUED, alive=True, job=SlurmJob("7", "PENDING"))), Action.WAIT),
        (Facts(run=NOT_REQUEUED), Action.RESTART),
        (Facts(run=NOT_REQUEUED, restarts=9, crash=Crash(exit_code=75, step=3)), Action.RESTART),
        (Facts(run=NOT_REQUEUED, crash=Crash(exit_code=75, step=5)), Action.FAIL),
        (Facts(run=replace(NOT_REQUEUED, stop_requested=True)), Action.FAIL),
        (Facts(run=replace(ENDED, job=SlurmJob("7", "CANCELLED"))), Action.FAIL),
        (Facts(run=replace(GONE, job=SlurmJob("7", "CANCELLED"))), Action.FAIL),
        (Facts(run=GONE), Action.RESTART),
        (Facts(run=GONE, crash=Crash(exit_code=KILLED, step=5)), Action.FAIL),
    ],
)
def test_run_leaves_a_cluster_for_no_other_machine(facts: Facts, action: Action) -> None:
    assert verdict(replace(facts, on_cluster=True)).action is action


def test_a_turn_that_is_over_uses_up_no_restart() -> None:
    assert not verdict(Facts(run=NOT_REQUEUED, on_cluster=True)).counts
    assert verdict(Facts(run=GONE, on_cluster=True)).counts


HOSTS = {
    "box": HostSpec(host="box"),
    "cluster": HostSpec(host="login", user="me", scheduler="slurm", slurm=SlurmSpec(partition="gpu")),
    "Long_Queue": HostSpec(host="login", user="me", scheduler="slurm", slurm=SlurmSpec(partition="long")),
}


@pytest.fixture
def ledger(gptops_home: StatePaths, fake_clock: FakeClock) -> Iterator[Ledger]:
    with Ledger(gptops_home.ledger, fake_clock) as opened:
        yield opened


def opened(ledger: Ledger, *names: tuple[str, str]) -> list[InstanceRow]:
    for name, address in names:
        ledger.intend_instance(
            label=name, name=name, provider="ssh", project="tests", price_per_hour=0.0, gpus=0, gpu_name=""
        )
        ledger.mark_instance(name, InstanceState.OPEN, instance_id=name, address=address)
    return ledger.instances(InstanceState.OPEN)


def test_a_login_node_that_cannot_be_asked_is_told_and_its_runs_are_shown_as_they_were(
    ledger: Ledger, gptops_home: StatePaths, fake_clock: FakeClock, tmp_path: Path
) -> None:
    [row] = opened(ledger, ("cluster", "me@login:22"))
    local = LocalRun(tmp_path / "runs" / "far-1")
    local.root.mkdir(parents=True)
    local.batch.write_text("#SBATCH --nodes=2\n")
    run = RunRow("far-1", "far", row.name, row.label, "", str(local.root), 0.0, RunState.RUNNING, None, True, 2)
    ledger.add_run(run)
    said = list[str]()
    assert queued(ledger, gptops_home, fake_clock, said.append) == {}
    assert len(said) == 1
    assert said[0].endswith("whether its runs wait or train is not known")
    assert ledger.run("far-1").state is RunState.RUNNING


@pytest.mark.parametrize(("text", "nodes"), [("#!/bin/bash\n#SBATCH --nodes=16\n#SBATCH --time=1\n", 16), ("", 1)])
def test_a_batch_file_tells_on_how_many_nodes_it_runs(text: str, nodes: int) -> None:
    assert nodes_in(text) == nodes


def partition(rows: list[InstanceRow], asked: str | None, job_host: str | None) -> str | None:
    found = cluster_for(HOSTS, rows, asked, job_host, must_be_open=True)
    return found[1].partition if found else None


def test_a_login_node_is_known_by_its_address_and_two_entries_of_it_by_name(ledger: Ledger) -> None:
    rows = opened(ledger, ("box", "root@box:22"), ("cluster", "me@login:22"), ("long-queue", "me@login:22"))
    assert partition(rows, "cluster", None) == "gpu"
    assert partition(rows, "long", None) == "long", "the beginning of an open host's name is enough"
    assert partition(rows, None, "Long_Queue") == "long"
    assert partition(rows, "box", "cluster") is None
    assert partition(rows, None, "box") is None
    assert partition(rows, None, None) is None, "several are open, and nothing says which"


def test_an_open_login_node_serves_every_entry_at_its_address(ledger: Ledger) -> None:
    rows = opened(ledger, ("renamed", "me@login:22"))
    assert partition(rows, None, None) == partition(rows, "ren", None) == partition(rows, None, "cluster") == "gpu"
    assert partition(rows, "Long_Queue", "cluster") == "long"


def test_a_cluster_that_is_not_open_is_named_with_what_opens_it(ledger: Ledger) -> None:
    with pytest.raises(NotFound) as refused:
        partition([], None, "cluster")
    assert refused.value.hint == "gptops up --host cluster"
    assert cluster_for(HOSTS, [], "cluster", None, must_be_open=False) == ([], HOSTS["cluster"].slurm)


FAR = """\
hosts:
  cluster: {host: login, user: me, scheduler: slurm}
  one: {host: one}
  two: {host: two}
groups: {pair: [one, two]}
jobs:
  far:
    {stage: pretrain, provider: vast, resources: {nodes: 2}, train: {train: {max_steps: 200}}}
"""


def test_a_host_on_the_command_line_wins_over_the_jobs_market(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / "jobs.yaml").write_text(FAR)
    rows = opened(ledger, ("cluster", "me@login:22"), ("one", "root@one:22"), ("two", "root@two:22"))

    def plan(host: str) -> LaunchPlan:
        request = LaunchRequest("far", host=host, only_look=True)
        chosen = [row for row in rows if row.name in ("one", "two")]
        return plan_of(
            request, start=tmp_path, environment={}, ledger=ledger, run_id="far-1", choose=lambda _name, _count: chosen
        )[0]

    assert "#SBATCH --nodes=2" in (plan("cluster").batch or "")
    assert plan("pair").host_name == "one, two"
