"""A real Slurm trains: submitted, followed, stopped, requeued, resumed, refused, held up, and gone.

The time limit is Slurm's own, and its shortest: one minute. Slurm looks at limits each half minute, and signals up to a
minute before the moment that was asked for: asked for 59 seconds before the end, it signals at its first look. That run
begins before the first test and is looked at in the second one, so that nobody waits for Slurm's clock alone. Elsewhere
the same signal is sent by scancel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from launcher.rendering.request import RenderRequest, rendered
from tests.launcher.cluster_lab import Lab, answer, make_lab
from tests.launcher.command_line import gptops
from tests.launcher.waiting import wait_until
from trainer import manifest

pytestmark = pytest.mark.slow

REQUEUED = re.compile(r"is requeued, to go on from (?:step_(\d+)|its beginning)")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from make_lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def limited(lab: Lab) -> str:
    """A run with a time limit of a minute, which goes no further than step 3 in its first turn."""
    lab.obedient.allow(3)
    return lab.start(host="short")


@pytest.mark.usefixtures("limited")
def test_two_nodes_train_one_model_its_checkpoint_comes_home_and_each_has_a_log(lab: Lab) -> None:
    def on_laptop(*words: str, exit_code: int = 0) -> str:
        done = gptops(*words, home=lab.obedient.state.root, cwd=lab.real)
        assert done.exit_code == exit_code, done.stdout + done.stderr
        return done.stdout + done.stderr

    on_laptop("run", "tiny")
    [run] = [path for path in (lab.real / "runs").iterdir() if path.name.startswith("tiny-")]
    log = (run / "train.log").read_text()
    assert log.count("step 6/6  loss") == 1, "one training of two nodes, not two trainings"
    assert (lab.fact(run.name, "phase"), lab.fact(run.name, "exit_code")) == ("ended", "0")
    assert len(list((lab.remote(run.name) / "status" / "workers").glob("*.exit"))) == 2
    assert not list(lab.remote(run.name).rglob("evil"))
    assert [manifest.verify(path).step for path in manifest.checkpoints(run / "checkpoints")][-1] == 6
    assert "this is rank 1" not in log
    other = on_laptop("logs", run.name, "--node", "1", "-f")
    assert "this is rank 1" in other
    assert "this is rank 0" not in other
    assert (run / "train.node1.log").read_bytes() == (lab.remote(run.name) / "logs" / "node-1.log").read_bytes()
    assert "runs on 2 nodes, the first is 0" in on_laptop("logs", run.name, "--node", "2", exit_code=4)


def test_before_the_time_limit_it_saves_requeues_itself_and_goes_on_to_the_end(lab: Lab, limited: str) -> None:
    found = wait_until(lambda: REQUEUED.search(lab.log(limited)), seconds=180, what=f"{lab.log(limited)}")
    job = lab.fact(limited, "slurm_job")
    assert "TimeLimit=00:01:00" in lab.slurm.call("scontrol", "show", "job", job)
    followed = lab.gptops("logs", limited, "-f")
    assert followed.exit_code == 0, followed.stderr
    assert f"begins after step {int(found[1] or 0)}\n" in followed.stdout
    assert lab.fact(limited, "slurm_job") == job
    assert int(lab.fact(limited, "attempt")) >= 2
    assert lab.steps(limited)[-1] == 8
    assert lab.obedient.root.joinpath("runs", limited, "train.log").read_text() == lab.log(limited)


def test_the_machines_behind_the_login_node_are_looked_at_by_a_job_of_their_own(lab: Lab) -> None:
    done = gptops("test-remote", "cluster", "--wait", "300", "--json", home=lab.obedient.state.root, cwd=lab.real)
    assert done.exit_code == 0, done.stdout + done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert {check["verdict"] for name, check in found.items() if name.startswith(("node", "slurm", "all"))} == {"pass"}
    for node in ("node0", "node1"):
        assert re.match(r"no GPU, python 3\S+, torch \S+, the login node's disk, clock [+-]\d+ s", found[node]["found"])
    assert "MiB/s, round trip " in found["link node0 node1"]["found"]
    assert "gloo, 2 processes" in found["all-reduce, all"]["found"]
    assert "all-reduce" not in found, "the login node is left in peace"
    wait_until(lambda: lab.slurm.jobs() == [], what="the job that looked at them is over for Slurm, too")
    assert not list((lab.slurm.login.home / "gptops").glob("preflight-*"))


def test_stop_lets_it_save_and_the_job_does_not_come_back_and_a_silent_controller_has_ended_nothing(lab: Lab) -> None:
    with lab.steps_up_to(3):
        run_id = lab.start()
        lab.await_step(run_id, 3)
        lab.slurm.login.call("mount", "-t", "tmpfs", "none", "/run/munge")
        status = lab.status(run_id)
        lab.slurm.login.call("umount", "/run/munge")
        assert (status["alive"], status["job_state"], status["phase"]) == ("yes", "UNKNOWN", "running")
        stopped = lab.gptops("stop", run_id, "--json")
        assert stopped.exit_code == 0, stopped.stderr
        told = answer(stopped)
        assert (told["phase"], told["exit_code"], told["checkpoint_step"]) == ("ended", 75, 3)
        assert lab.fact(run_id, "slurm_job") not in lab.slurm.jobs()


def test_a_job_that_vanished_is_told_and_one_that_somebody_cancels_saves_and_is_not_requeued(lab: Lab) -> None:
    with lab.steps_up_to(3):
        run_id = lab.start()
        lab.await_step(run_id, 3)
        job, fact = lab.fact(run_id, "slurm_job"), lab.remote(run_id) / "status" / "slurm_job"
        fact.write_text("987654\n")
        done = lab.gptops("logs", run_id, "-f")
        fact.write_text(f"{job}\n")
        assert done.exit_code == 9, done.stderr
        assert "Slurm knows no job 987654 (any more)" in done.stderr
        lab.slurm.call("scancel", job)
        lab.await_gone(run_id)
        assert lab.steps(run_id) == [2, 3]
        assert lab.gptops("logs", run_id, "-f").exit_code == 75


def test_run_sees_jobs_through_a_preemption_and_a_turn_that_slurm_does_not_requeue(lab: Lab) -> None:
    known = lab.runs("demo")
    with lab.steps_up_to(3), lab.obedient.started("run", "demo", "second", "--skip-setup", "--skip-test") as running:
        [run_id] = wait_until(lambda: lab.runs("demo") - known, what="the run")
        lab.await_step(run_id, 3)
        lab.slurm.call("sbatch", "--partition=urgent", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=true")
        wait_until(lambda: lab.fact(run_id, "attempt") == "2", what=f"it begins again: {lab.log(run_id)}")
        lab.obedient.allow(5)
        lab.await_step(run_id, 5)
        job = lab.fact(run_id, "slurm_job")
        lab.slurm.call("scontrol", "update", f"JobId={job}", "Requeue=0")
        lab.signal(run_id, "USR1")
        wait_until(lambda: lab.fact(run_id, "slurm_job") != job, what=f"another job: {lab.log(run_id)}")
        lab.obedient.allow(None)
        _, said = running.communicate()
    assert running.returncode == 0, said
    assert "its turn is over, not requeued: " in said
    assert "`cluster` stays open: nobody bills it" in said
    assert "begins after step 5" in lab.log(run_id)
    [following] = lab.runs("second")
    for name in (run_id, following):
        home = lab.obedient.root / "runs" / name / "checkpoints"
        assert manifest.verify(manifest.checkpoints(home)[-1]).step == 8
        assert (lab.fact(name, "exit_code"), lab.fact(name, "phase")) == ("0", "ended")


def test_a_time_limit_too_short_for_one_checkpoint_does_not_requeue_for_ever(lab: Lab) -> None:
    with lab.steps_up_to(0):
        run_id = lab.start()
        wait_until(lambda: lab.fact(run_id, "phase") == "running", what="it trains")
        (lab.remote(run_id) / "status" / "idle_turns").write_text("2\n")
        wait_until(lambda: "begins after" in lab.log(run_id), what="the trainer listens")
        lab.signal(run_id, "USR1")
        wait_until(lambda: "3 turns in a row have saved no new checkpoint" in lab.log(run_id), what=lab.log(run_id))
        lab.await_gone(run_id)
        assert lab.fact(run_id, "exit_code") == "75"


def test_a_failed_training_is_told_with_its_own_code_and_last_words(lab: Lab) -> None:
    lab.obedient.crash_at(3, 4, "the data is damaged", once=True)
    done = lab.gptops("train", "demo", "--host", "cluster", "--skip-setup")
    assert done.exit_code == 9, done.stderr
    assert "ended with exit code 4" in done.stderr
    assert "the data is damaged" in done.stderr


def test_a_partition_that_does_not_exist_is_told_in_slurms_words_and_leaves_nothing(lab: Lab) -> None:
    folders = sorted((lab.slurm.login.home / "gptops").glob("*/run.env"))
    done = lab.gptops("train", "demo", "--host", "nowhere", "--skip-setup")
    assert done.exit_code == 7, done.stderr
    assert "error: Slurm on `cluster` refused the job" in done.stderr
    assert "invalid partition specified: no-such-partition" in done.stderr
    assert sorted((lab.slurm.login.home / "gptops").glob("*/run.env")) == folders
    assert not list((lab.slurm.login.home / "gptops" / "preparing").iterdir())


def test_a_queue_that_never_starts_is_told_with_position_and_reason_and_stop_takes_the_job_back(lab: Lab) -> None:
    lab.slurm.call("scontrol", "update", "PartitionName=debug", "State=DOWN")
    try:
        with lab.obedient.started("train", "demo", "--host", "cluster", "--skip-setup") as waiting:
            assert waiting.stderr is not None
            told = next(line for line in waiting.stderr if "waits: job" in line)
            waiting.kill()
            waiting.communicate()
        assert "is PENDING (PartitionDown: its partition is down), 1 of 1 in debug" in told
        assert "it will not start by itself, `gptops stop " in told
        run_id = told.split("`")[1]
        looked = lab.gptops("logs", run_id, "--json")
        assert answer(looked)["phase"] == "queued"
        assert "is PENDING (PartitionDown: its partition is down), 1 of 1 in debug" in looked.stderr
        tested = lab.gptops("test-remote", "closed", "--json")
        assert tested.exit_code == 0, tested.stderr
        skipped = json.loads(tested.stdout)["checks"][-1]
        assert (skipped["name"], skipped["verdict"]) == ("slurm job", "warn")
        assert "not looked at: job" in skipped["found"]
        assert "(PartitionDown: its partition is down), 1 of 1 in closed" in skipped["found"]
        [host] = json.loads(lab.gptops("ps", "--json").stdout)
        assert f"{run_id} (queued, 1 of 1 in debug (PartitionDown: its partition is down))" in host["runs"]
        [job] = host["queued"]
        assert (job["run_id"], job["state"], job["position"]) == (run_id, "PENDING", "1 of 1 in debug")
        stopped = lab.gptops("stop", run_id)
        assert stopped.exit_code == 0, stopped.stderr
        assert f"taking `{run_id}` out of the queue: job" in stopped.stderr
        assert "was taken out of the queue before it began" in stopped.stderr
        assert lab.slurm.jobs() == []
    finally:
        lab.slurm.call("scontrol", "update", "PartitionName=debug", "State=UP")
        lab.slurm.await_idle()


def test_a_failing_prolog_is_seen_and_the_job_can_be_taken_back(lab: Lab) -> None:
    lab.slurm.refuse_to_begin(True)
    try:
        run_id = lab.start()
        wait_until(lambda: "held" in str(lab.status(run_id)["job_reason"]), what=f"{lab.status(run_id)}")
        assert lab.status(run_id)["job_state"] == "PENDING"
        assert lab.gptops("stop", run_id).exit_code == 0
        wait_until(lambda: lab.slurm.jobs() == [], what="an empty queue")
    finally:
        lab.slurm.refuse_to_begin(False)


def test_a_batch_file_by_hand_is_taken_by_sbatch_and_trains_into_a_folder_of_its_job(lab: Lab) -> None:
    home, there = lab.slurm.login.home / "by hand", f"{lab.slurm.login.home_there}/by hand"
    home.mkdir()
    for name in ("trainer", "torch"):
        (home / name).symlink_to(lab.obedient.root / name)
    (home / "job.sbatch").write_text(rendered(RenderRequest("demo", "slurm"), start=lab.obedient.root))
    job = lab.slurm.call("sh", "-c", f"cd '{there}' && PYTHONPATH=. sbatch --parsable job.sbatch").strip()
    wait_until(lambda: job not in lab.slurm.jobs(), what="the end of the job")
    output = (home / f"slurm-{job}.out").read_text()
    assert "step 8/8" in output, output
    assert (home / "runs" / f"demo-{job}" / "status" / "exit_code").read_text() == "0\n"


def test_one_login_node_serves_several_partitions(lab: Lab) -> None:
    other = lab.gptops("train", "demo", "--host", "closed", "--dry-run")
    assert other.exit_code == 0, other.stderr
    assert "#SBATCH --partition=closed" in other.stdout
    assert "host:      cluster" in other.stdout
