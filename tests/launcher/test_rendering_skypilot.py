"""A SkyPilot task is one to SkyPilot's own parser, and what it runs saves to the bucket and begins from it.

SkyPilot pins its own versions, so it lives in a venv of its own: $GPTOPS_SKYPILOT is its Python, or .venv-skypilot in
the repository has it, which scripts/test makes of scripts/skypilot.txt.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launcher.command_line import ROOT
from tests.launcher.test_rendering import project, text_of
from trainer import manifest
from trainer.config import parse_yaml

__all__ = ["project"]  # the fixture

PARSE = """
import json, sys
from sky import Task
from sky.utils import yaml_utils
config = yaml_utils.safe_load(sys.stdin.read())
task = Task.from_yaml_config(config, [("CHECKPOINT_BUCKET", "my-bucket")], [("HUB_TOKEN", "hf_1")])
[*resources] = task.resources
print(json.dumps({
    "nodes": task.num_nodes, "run": task.run, "envs": task.envs, "mounts": list(task.storage_mounts),
    "models": sorted(name for each in resources for name in each.accelerators or {}),
}))
"""


def skypilot() -> Path:
    """A Python that has it."""
    venv = ROOT / ".venv-skypilot"
    if named := os.environ.get("GPTOPS_SKYPILOT"):
        return Path(named)
    if not (venv / ".ready").exists():
        pytest.skip(f"SkyPilot is not installed in {venv}: scripts/test does it where PyPI answers")
    return venv / "bin" / "python"


def test_skypilots_own_parser_takes_the_task(project: Path) -> None:
    python = skypilot()
    home = project / ".sky-home"
    home.mkdir()
    done = subprocess.run(
        [str(python), "-c", PARSE], input=text_of(project, "big", "skypilot"), capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    task = json.loads(done.stdout.splitlines()[-1])
    assert (task["nodes"], task["mounts"]) == (2, ["/checkpoints"])
    assert task["models"] == ["A100-80GB", "H100", "RTX4090"]
    assert task["envs"]["NCCL_DEBUG"] == "WARN"
    assert task["run"].startswith("GPTOPS_TRAIN_YAML=")


TORCHRUN = """
import pathlib, re, sys
from trainer import manifest
[out_dir] = [word.partition("=")[2] for word in sys.argv if word.startswith("out_dir=")]
[config] = [sys.argv[at + 1] for at, word in enumerate(sys.argv) if word == "--config"]
last = int(re.search(r"max_steps: (\\d+)", pathlib.Path(config).read_text())[1])
folder = pathlib.Path(out_dir) / "checkpoints"
print("begins after", [manifest.verify(each).step for each in manifest.checkpoints(folder)], sys.argv[1:4])
(folder / f"step_{last + 1:08d}.tmp" / "deep").mkdir(parents=True)  # one that is not whole yet
building = folder / f"{manifest.step_name(last)}.tmp"
(building / "deep er").mkdir(parents=True)
(building / "model.safetensors").write_bytes(b"weights")
(building / "deep er" / "tokenizer.json").write_bytes(b"{}")
manifest.publish(building)
"""
"""In place of torch's: it publishes one checkpoint. The trainer itself is trained with elsewhere."""


def node(disk: Path, run: str, bucket: Path, **variables: str) -> str:
    """What the task runs, on a machine whose workdir is `disk`."""
    stand_in = disk / "torch" / "distributed"
    stand_in.mkdir(parents=True, exist_ok=True)
    for folder in (stand_in.parent, stand_in):
        (folder / "__init__.py").write_text("")
    (stand_in / "run.py").write_text(TORCHRUN)
    environment = {
        **os.environ, "PYTHONPATH": f"{disk}:{ROOT}", "GPTOPS_BUCKET": str(bucket), "RUN": "one",
        "GPTOPS_STAGE": "pretrain", "GPTOPS_PROCESSES": "1", "SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), **variables,
    }  # fmt: skip
    done = subprocess.run(["bash", "-c", run], cwd=disk, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_whole_checkpoints_go_to_the_bucket_and_other_machines_go_on_from_them(project: Path, tmp_path: Path) -> None:
    run = parse_yaml(text_of(project, "single", "skypilot"), "task")["run"]
    bucket, of_first = tmp_path / "bucket", tmp_path / "bucket" / "one" / "node-0"
    assert "begins after [] ['--standalone'" in node(project, run, bucket)
    assert [path.name for path in of_first.iterdir()] == ["step_00000004"]
    assert manifest.verify(of_first / "step_00000004").step == 4

    longer = run.replace("max_steps: 4", "max_steps: 6")
    two = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    second = node(tmp_path / "second", longer, bucket, SKYPILOT_NODE_RANK="1", **two)
    assert "begins after [4] ['--nnodes=2', '--rdzv-backend=c10d', '--rdzv-endpoint=10.0.0.1:29400']" in second
    assert (of_first.with_name("node-1") / "step_00000006" / "MANIFEST.json").is_file()


def test_a_failed_training_fails_the_task(project: Path, tmp_path: Path) -> None:
    run = parse_yaml(text_of(project, "single", "skypilot"), "task")["run"]
    with pytest.raises(AssertionError, match="no such file"):
        node(project, run.replace("python -m torch.distributed.run", "sh -c 'echo no such file >&2; exit 3'"), tmp_path)
