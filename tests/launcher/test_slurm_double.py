"""The double of a cluster is a real Slurm on nodes of its own, which share the login node's home."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.doubles.slurm import Slurm, reason_to_skip
from tests.launcher.waiting import wait_until


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    with Slurm(tmp_path_factory.mktemp("slurm") / "cluster", 2) as made:
        yield made


def submit(slurm: Slurm, script: str, *options: str) -> str:
    (slurm.login.home / "job.sh").write_text(f"#!/bin/bash\n{script}\n")
    words = ["sbatch", "--parsable", f"--chdir={slurm.login.home_there}", *options, "job.sh"]
    return slurm.call("sh", "-c", 'cd "$0" && exec "$@"', str(slurm.login.home_there), *words).strip()


def test_a_job_runs_on_every_node_and_writes_into_one_home(slurm: Slurm) -> None:
    job = submit(
        slurm, "srun sh -c 'hostname >\"on-$(hostname)\"; echo $CUDA_VISIBLE_DEVICES'", "-N2", "--gpus-per-node=1"
    )
    wait_until(lambda: job not in slurm.jobs(), what="the job has ended")
    assert {path.name for path in slurm.login.home.glob("on-*")} == {"on-node0", "on-node1"}
    assert (slurm.login.home / f"slurm-{job}.out").read_text().split() == ["0", "0"]


def test_a_failing_prolog_keeps_jobs_from_beginning_until_it_is_mended(slurm: Slurm) -> None:
    slurm.refuse_to_begin(True)
    job = submit(slurm, "true")
    wait_until(lambda: "DRAIN" in slurm.call("scontrol", "show", "nodes", "--oneliner"), what="a drained node")
    slurm.call("scancel", job)
    wait_until(lambda: job not in slurm.jobs(), what="the job is gone")
    slurm.refuse_to_begin(False)
    again = submit(slurm, "echo began")
    wait_until(lambda: again not in slurm.jobs(), what="the job has ended")
    assert (slurm.login.home / f"slurm-{again}.out").read_text() == "began\n"
