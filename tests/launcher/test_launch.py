"""The plan of a launch, pure, and the steps on a host that carry it out."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger
from launcher.clock import SystemClock
from launcher.commands import runs as commands
from launcher.errors import HostUnfit, JobsError, NotFound
from launcher.paths import REMOTE_UPLOADS, RemoteRun, StatePaths
from launcher.project import Project
from launcher.remote.ssh import SshTransport
from launcher.running.launch import start_run
from launcher.running.launch_plan import LaunchPlan, new_run_id, plan_json, plan_run, plan_text
from launcher.running.means import Means
from launcher.running.snapshot import LocalFile, Snapshot
from launcher.running.starters import start_of
from launcher.spec.jobs import JobSpec
from tests.launcher.conftest import SshHost
from trainer.config import RunConfig, parse_yaml, run_config

ROOT = Path("/home/me/my gpt's $(code)")
CODE = Snapshot(ROOT, ("jobs.yaml", "a b.txt"), 2_500_000, (LocalFile("a b.txt", 2_400_000),), "f" * 64, (), ())


def job(**keys: object) -> JobSpec:
    return JobSpec.model_validate({"stage": "pretrain", **keys})


def plan(spec: JobSpec, *, host: tuple[str, int] | None = ("local-1a2b", 0), skip_setup: bool = False) -> LaunchPlan:
    return plan_run(
        Project(ROOT, "my-gpt", ROOT / "jobs.yaml"),
        "demo",
        spec,
        run_config({"train": {"max_steps": 200}}, source="jobs.yaml"),
        CODE,
        run_id="demo-1017-1612-3f2a",
        host=host,
        secrets=dict.fromkeys(spec.secrets, "the secret itself"),
        skip_setup=skip_setup,
    )


def test_the_plan_reads_like_this(golden: Callable[[str, str], None]) -> None:
    spec = job(env={"GREETING": "it's $(fine)\nreally"}, secrets=["HF_TOKEN"], processes=2)
    text = plan_text(plan(spec))
    assert "the secret itself" not in text
    text = re.sub(r"venvs/[0-9a-f]{16}", "venvs/SETUP", text)
    golden("launcher_plan_train.txt", re.sub(r"(?s)(?<=\ntrain.yaml:\n).*?(?=\n\nwhat)", "  ...", text) + "\n")


def test_the_plan_as_json_masks_too() -> None:
    text = json.dumps(plan_json(plan(job(secrets=["HF_TOKEN"]))))
    assert "the secret itself" not in text
    assert '"HF_TOKEN": "********"' in text


def test_a_plan_does_not_show_its_secrets_by_accident() -> None:
    assert "the secret itself" not in repr(plan(job(secrets=["HF_TOKEN"])))


def test_the_configuration_arrives_as_it_was_resolved() -> None:
    made = plan(job())
    there = run_config(parse_yaml(made.train_yaml, "train.yaml"), source="train.yaml")
    assert there == made.config
    assert (there.out_dir, there.train.max_steps) == ("..", 200)
    assert isinstance(there, RunConfig)


def test_a_variable_of_the_shells_own_is_refused() -> None:
    with pytest.raises(JobsError, match="`UID` cannot be set"):
        plan(job(env={"UID": "0"}))


@pytest.mark.parametrize(
    ("spec", "host_gpus", "processes", "starter"),
    [
        (job(), 0, 1, "python -m torch.distributed.run --standalone --nproc_per_node=1 --no-python"),
        (job(), 8, 1, "python -m torch.distributed.run --standalone --nproc_per_node=1 --no-python"),
        (job(processes=2), 0, 2, "python -m torch.distributed.run --standalone --nproc_per_node=2 --no-python"),
        (
            job(resources={"gpus": 4}), 8, 8,
            "python -m torch.distributed.run --standalone --nproc_per_node=8 --no-python",
        ),
        (
            job(resources={"gpus": 4}, processes=4), 8, 4,
            "python -m torch.distributed.run --standalone --nproc_per_node=4 --no-python",
        ),
        (
            job(resources={"gpus": 2}, launcher="accelerate"), 2, 2,
            "python -m accelerate.commands.launch --multi_gpu --num_machines=1 --num_processes=2"
            " --main_process_port=0 --mixed_precision=no --dynamo_backend=no --no_python",
        ),
        (
            job(launcher="accelerate"), 0, 1,
            "python -m accelerate.commands.launch --cpu --num_machines=1 --num_processes=1"
            " --main_process_port=0 --mixed_precision=no --dynamo_backend=no --no_python",
        ),
    ],
)  # fmt: skip
def test_what_starts_a_job(spec: JobSpec, host_gpus: int, processes: int, starter: str) -> None:
    start = start_of(spec, host_gpus=host_gpus)
    assert (start.processes, shlex.join(start.starter)) == (processes, starter)
    assert start.environment["GPTOPS_EXPECTED_PROCESSES"] == str(processes)
    assert ("ACCELERATE_USE_CPU" in start.environment) is (spec.resources.gpus == 0)
    assert start.training == ("python", "-m", "trainer", "pretrain", "--config", "../train.yaml")


def test_a_host_with_too_few_gpus_is_refused() -> None:
    with pytest.raises(HostUnfit, match="wants 8 GPUs and the host has 2"):
        start_of(job(resources={"gpus": 8}), host_gpus=2)


def test_a_run_id_tells_what_it_is_and_when_it_began() -> None:
    assert new_run_id("Demo", 1_760_717_520.0, "3f2a") == "demo-1017-1612-3f2a"


def test_a_prepared_run_is_hidden_until_it_starts_and_has_code_of_its_own(
    transport: SshTransport, ssh_host: SshHost
) -> None:
    upload = ssh_host.home / REMOTE_UPLOADS / "launch $(x)'s"
    (upload / "sub folder").mkdir(parents=True)
    (upload / "sub folder" / "a.py").write_text("before")
    run = RemoteRun("hidden-0001")
    files = [commands.RunFile("run.env", b"A='\xff'\n", 0o600), commands.RunFile("run.sh", b"exit 0\n", 0o755)]
    made = transport.run(commands.prepare_run(run, REMOTE_UPLOADS / upload.name, files))
    assert made.exit_code == 0, made.stderr
    assert not (ssh_host.home / run.root).exists()
    (upload / "sub folder" / "b.py").write_text("uploaded later")
    assert transport.run(commands.start_run(run)).exit_code == 0
    code = ssh_host.home / run.code
    assert [path.name for path in (code / "sub folder").iterdir()] == ["a.py"]
    assert (code / "sub folder" / "a.py").stat().st_ino == (upload / "sub folder" / "a.py").stat().st_ino
    assert (ssh_host.home / run.env_file).read_bytes() == b"A='\xff'\n"
    assert (ssh_host.home / run.env_file).stat().st_mode & 0o777 == 0o600


def test_without_an_upload_there_is_no_run(transport: SshTransport, ssh_host: SshHost) -> None:
    run = RemoteRun("nothing-0001")
    assert transport.run(commands.prepare_run(run, REMOTE_UPLOADS / "never", [])).exit_code != 0
    assert transport.run(commands.discard_prepared(run)).exit_code == 0
    assert transport.run(commands.start_run(run)).exit_code == 69
    assert not (ssh_host.home / run.root).exists()


def test_no_run_begins_on_a_host_that_was_closed_meanwhile(
    transport: SshTransport, gptops_home: StatePaths, ssh_host: SshHost
) -> None:
    clock = SystemClock()
    with Ledger(gptops_home.ledger, clock) as ledger:
        host = ledger.intend_instance(
            label="gptops:demo:1", name="box", provider="local", project="demo",
            price_per_hour=0.0, gpus=0, gpu_name="",
        )  # fmt: skip
        ledger.mark_instance(host.label, InstanceState.CLOSED)
        means = Means(transport, ledger, gptops_home, clock, print, lambda _what, _total: nullcontext(print))
        with pytest.raises(NotFound, match="`box` was closed meanwhile"):
            start_run(plan(job()), host, means)
        assert ledger.runs() == []
