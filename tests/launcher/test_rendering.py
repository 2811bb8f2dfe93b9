"""A job for other schedulers: the texts, what they are refused for, and that the plain ones really train."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.errors import GptopsError, JobsError
from launcher.rendering.request import RenderRequest, rendered
from tests.launcher.command_line import ROOT, gptops

NASTY = 'it\'s "$(touch evil)" `touch evil`\n#SBATCH --wrong\\'

JOBS = f"""\
jobs:
  tiny:
    stage: pretrain
    processes: 2
    env: {{OMP_NUM_THREADS: 1, NASTY: {json.dumps(NASTY)}}}
    secrets: [HUB_TOKEN]
    train: &train
      model: {{d_model: 16, n_layers: 1, n_heads: 2, max_seq_len: 16}}
      data: {{path: "it's a corpus.txt", tokenizer: {{kind: bytes}}}}
      train: {{max_steps: 4, global_batch_size: 4, micro_batch_size: 2}}
      schedule: {{warmup_steps: 1}}
      log: {{every_steps: 1}}
  big:
    stage: pretrain
    provider: ssh
    host: cluster
    resources: {{gpus: 8, gpu_names: [H100, RTX 4090, A100 80GB], nodes: 2, disk_gib: 200, max_price_per_hour: 20}}
    env: {{NCCL_DEBUG: WARN}}
    secrets: [HUB_TOKEN]
    setup: {{pip: ["wandb==0.31.0"], shell: ["nvidia-smi -L"]}}
    train: {{train: {{max_steps: 20, global_batch_size: 128}}, schedule: {{warmup_steps: 2}}}}
  single: {{stage: pretrain, env: {{OMP_NUM_THREADS: 1}}, train: *train}}
  after: {{stage: sft, train: {{model: {{init_from: "job:tiny"}}}}}}
  any: {{stage: pretrain, provider: vast, resources: {{gpus: 1}}}}
  accelerated: {{stage: pretrain, launcher: accelerate, train: *train}}
hosts:
  mybox: {{host: box}}
  cluster:
    host: login
    scheduler: slurm
    slurm:
      partition: gpu
      account: my-lab
      qos: long
      time: 1-12:00:00
      gpu_type: h100
      signal_seconds: 300
      extra: ["--constraint=ib", "--exclusive"]
      shell: ["module load cuda/13"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my project's"
    folder.mkdir()
    (folder / "jobs.yaml").write_text(JOBS)
    (folder / "it's a corpus.txt").write_text("To be, or not to be, that is the question.\n" * 200)
    return folder


def text_of(project: Path, job: str, target: str, *overrides: str, host: str | None = None) -> str:
    return rendered(RenderRequest(job, target, overrides, host), start=project)


@pytest.mark.parametrize("target", ["slurm", "torchrun", "accelerate", "skypilot"])
def test_a_job_of_two_nodes_is_rendered_as_it_was_agreed(
    project: Path, golden: Callable[[str, str], None], target: str
) -> None:
    golden(f"render_{target}.txt", text_of(project, "big", target))


def test_a_cluster_is_found_by_the_job_or_by_name_and_what_it_does_not_say_is_left_out(project: Path) -> None:
    jobs = JOBS.replace("  mybox: {host: box}\n", "  other: {host: login2, scheduler: slurm}\n")
    (project / "jobs.yaml").write_text(jobs)
    assert "--partition=gpu" in text_of(project, "big", "slurm")
    other = text_of(project, "big", "slurm", host="other")
    directives = [line for line in other.splitlines() if line.startswith("#SBATCH")]
    assert directives == [
        "#SBATCH --job-name=big", "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1", "#SBATCH --gres=gpu:8",
        "#SBATCH --signal=B:USR1@120", "#SBATCH --requeue", "#SBATCH --open-mode=append",
        "#SBATCH --output=slurm-%j.out",
    ]  # fmt: skip
    assert "--partition" not in text_of(project, "tiny", "slurm"), "two clusters, and the job names none"


def test_overrides_and_json_work_as_elsewhere(project: Path) -> None:
    words = ("render", "single", "--for", "torchrun", "train.max_steps=7")
    plain, told = (gptops(*words, *more, home=project / ".state", cwd=project) for more in ((), ("--json",)))
    assert (plain.exit_code, told.exit_code, plain.stderr) == (0, 0, "")
    assert json.loads(told.stdout) == {"job": "single", "for": "torchrun", "text": plain.stdout}
    assert "max_steps: 7" in plain.stdout


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (RenderRequest("tiny", "slrum"), 2, "did you mean `slurm`?"),
        (RenderRequest("tiny", "torchrun", host="cluster"), 2, "--host says which cluster"),
        (RenderRequest("tinny", "slurm"), 4, "did you mean `tiny`?"),
        (RenderRequest("tiny", "slurm", host="mybox"), 4, "no host with `scheduler: slurm`"),
        (RenderRequest("after", "slurm"), 3, "begins from the job `tiny`, which nobody but gptops can look up"),
        (RenderRequest("accelerated", "slurm"), 3, "`accelerate` does not go with Slurm"),
        (RenderRequest("tiny", "accelerate"), 3, "accelerate would not start the processes of `tiny` on a CPU"),
        (RenderRequest("any", "skypilot"), 3, "jobs.any.resources.gpu_names: is empty"),
        (RenderRequest("tiny", "torchrun", ["train.max_stesp=3"]), 3, "did you mean `max_steps`?"),
    ],
)
def test_what_cannot_be_rendered_is_refused_in_words(
    project: Path, request_: RenderRequest, code: int, says: str
) -> None:
    with pytest.raises(GptopsError) as refused:
        rendered(request_, start=project)
    assert refused.value.exit_code == code
    assert says in refused.value.what


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("scheduler: slurm\n    slurm: {time: 24h}", "time `24h` is none of"),
        ("scheduler: slurm\n    slurm: {time: 2}", "leaves nothing before signal_seconds 120"),
        ('scheduler: slurm\n    slurm: {partition: "gpu --wrap=x"}', "partition"),
        ('scheduler: slurm\n    slurm: {extra: ["-N4"]}', "`-N4` is not an option of sbatch in one line, written out"),
        ('scheduler: slurm\n    slurm: {extra: ["--nodes=4"]}', "`--nodes` is set by gptops"),
        ('scheduler: slurm\n    slurm: {extra: ["--x\\nrm -rf /"]}', "is not an option of sbatch in one line"),
        ("slurm: {partition: gpu}", "`slurm` goes with `scheduler: slurm`"),
        ("scheduler: pbs", "scheduler"),
    ],
)
def test_what_a_cluster_cannot_be_told_is_found_in_jobs_yaml(project: Path, written: str, says: str) -> None:
    jobs = "jobs:\n  one: {stage: pretrain}\nhosts:\n  cluster:\n    host: login\n    " + written + "\n"
    (project / "jobs.yaml").write_text(jobs)
    with pytest.raises(JobsError, match=r"hosts\.cluster") as refused:
        text_of(project, "one", "slurm")
    assert says in refused.value.what


def test_every_value_of_a_batch_file_arrives_as_it_was_written_and_none_becomes_an_option(project: Path) -> None:
    text = text_of(project, "tiny", "slurm")
    before, mark, _after = text.partition("\nset -u\n")
    assert mark
    head = before[: before.index("\n\n")].splitlines()  # sbatch reads options up to the first line that is no comment
    assert all(line.startswith("#") for line in head)
    assert not [line for line in head if "--wrong" in line]
    show = f"{before}\n\"$0\" -c \"import json, os; print(json.dumps([os.environ['NASTY'], os.environ['T']]))\""
    done = subprocess.run(
        ["bash", "-c", show.replace("GPTOPS_TRAIN_YAML=", "export T="), sys.executable],
        cwd=project, env={**os.environ, "SLURM_JOB_ID": "7", "HUB_TOKEN": "x"}, capture_output=True, text=True,
    )  # fmt: skip
    nasty, train_yaml = json.loads(done.stdout)
    assert nasty == NASTY
    assert "path: it's a corpus.txt" in train_yaml
    assert not (project / "evil").exists()


def run_script(project: Path, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["sh", "-s"], input=text, cwd=project, env=variables, capture_output=True, text=True)


@pytest.mark.slow
def test_the_script_for_torchrun_trains_in_two_processes_and_quotes_every_value_once(project: Path) -> None:
    program = f"import os; assert os.environ['NASTY'] == {NASTY!r}; assert os.environ['HUB_TOKEN'] == 'hf_1'"
    text = text_of(project, "tiny", "torchrun")
    before = run_script(project, text)
    assert (before.returncode, "HUB_TOKEN" in before.stderr) == (2, True), "a secret that is not there is asked for"
    checked = text.replace("exec torchrun", f"{shlex.join([sys.executable, '-c', program])}\nexec torchrun")
    done = run_script(project, checked, HUB_TOKEN="hf_1")
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stdout
    assert (project / "runs" / "tiny" / "checkpoints" / "step_00000004" / "MANIFEST.json").is_file()
    assert not (project / "evil").exists()


@pytest.mark.slow
def test_the_script_for_accelerate_trains_with_its_own_configuration_file(project: Path) -> None:
    done = run_script(project, text_of(project, "single", "accelerate"))
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stdout
    assert (project / "runs" / "single" / "accelerate.yaml").is_file()
