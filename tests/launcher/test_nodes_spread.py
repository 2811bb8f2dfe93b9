"""A training spread over two machines that share no disk: what it learns, how it comes home, and what goes on from it;
and the same by the plain scripts of `gptops render`, as somebody pastes them on each machine.

One process that trained as long, in this one, says what all of them have to learn.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.launcher.command_line import ROOT, Finished, gptops
from tests.launcher.nodes_lab import Lab, make_lab
from tests.trainer.tiny import checkpoint, largest_difference, tensors
from trainer import manifest
from trainer.checkpoints.checkpoint import read_state
from trainer.cli import main
from trainer.config import run_config
from trainer.loop.start import run_stage

pytestmark = pytest.mark.slow

TRAIN: dict[str, Any] = {
    "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 32, "dropout": 0.0},
    "data": {"path": "corpus.txt", "tokenizer": {"kind": "bytes"}},
    "train": {"max_steps": 4, "global_batch_size": 12, "micro_batch_size": 2, "precision": "fp32", "device": "cpu"},
    "schedule": {"warmup_steps": 1, "kind": "constant"},
    "checkpoint": {"every_steps": 4},
    "log": {"every_steps": 1},
}
JOB = {"stage": "pretrain", "provider": "ssh", "host": "lan", "env": {"OMP_NUM_THREADS": 1}, "train": TRAIN}
SPREAD = "train.parallel=fsdp"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two open machines, and the jobs `spread` (of a process on each) and `plain` (the same for a GPU on each)."""
    for made in make_lab(tmp_path_factory.mktemp("spread"), 2):
        jobs = {
            "spread": {**JOB, "resources": {"nodes": 2}},
            "plain": {**JOB, "resources": {"nodes": 2, "gpus": 1}},
        }
        hosts = {f"box{node.number}": {"host": node.address.host} for node in made.nodes.all}
        text = json.dumps({"jobs": jobs, "hosts": hosts, "groups": {"lan": [*hosts]}})
        (made.root / "jobs.yaml").write_text(text)  # JSON is YAML
        made.up(2)
        yield made


@pytest.fixture(scope="module")
def alone(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that nobody stopped: step 4, and step 6."""
    out_dir = tmp_path_factory.mktemp("alone") / "run"
    said = [f"data.path={lab.root / 'corpus.txt'}", "train.max_steps=6"]
    run_stage("pretrain", run_config({"out_dir": str(out_dir), **TRAIN}, source="alone", overrides=said))
    return out_dir


@dataclass(frozen=True)
class Spread:
    """The run on two machines, and what two calls of `gptops sync` made of it."""

    trained: Finished
    parts: list[manifest.Manifest]
    damaged: Finished
    parts_after_damage: list[str]
    synced: dict[str, Any]
    left: list[str]

    @property
    def run_id(self) -> str:
        return str(self.synced["run"])


@pytest.fixture(scope="module")
def spread(lab: Lab) -> Spread:
    """`gptops train`, then `gptops sync` twice: a byte of one part is wrong the first time."""
    trained = lab.gptops("train", "spread", SPREAD)
    assert trained.exit_code == 0, trained.stdout + trained.stderr
    parts = [manifest.verify_files(path) for path in published(lab)]
    [file] = lab.nodes[1].home.glob("gptops/spread-*/checkpoints/step_*/model/*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    damaged = lab.gptops("sync")
    after_damage = [path.name for path in published(lab)]
    file.write_bytes(whole)
    synced = lab.gptops("sync", "--json")
    assert synced.exit_code == 0, synced.stderr
    left = [path.name for path in published(lab)]
    return Spread(trained, parts, damaged, after_damage, json.loads(synced.stdout), left)


def published(lab: Lab) -> list[Path]:
    """The checkpoints, and parts of some, on all machines."""
    return [path for node in lab.nodes.all for path in sorted(node.home.glob("gptops/*/checkpoints/step_????????"))]


def home(lab: Lab, run_id: str) -> Path:
    return lab.root / "runs" / run_id


def test_each_machine_publishes_its_part_and_none_goes_before_all_are_verified_at_home(spread: Spread) -> None:
    assert [(part.step, part.part, part.parts) for part in spread.parts] == [(4, 0, 2), (4, 1, 2)]
    assert spread.damaged.exit_code != 0
    assert "step_00000004" in spread.damaged.stderr
    assert spread.parts_after_damage == ["step_00000004", "step_00000004"]
    assert spread.synced["home"] == spread.synced["pruned"] == [4]
    assert spread.left == []


def test_at_home_it_is_one_checkpoint_of_what_one_process_learns(lab: Lab, spread: Spread, alone: Path) -> None:
    run = home(lab, spread.run_id)
    whole = manifest.verify(checkpoint(run, 4))
    assert whole.is_whole
    assert {name for part in spread.parts for name in part.files} == set(whole.files)
    assert largest_difference(tensors(alone, 4), tensors(run, 4)) < 1e-6


def test_one_machine_goes_on_from_it_in_the_same_order(lab: Lab, spread: Spread, alone: Path, tmp_path: Path) -> None:
    went_on = lab.gptops("train", "spread", SPREAD, "train.max_steps=6", "--nodes", "1", "--resume", spread.run_id)
    assert went_on.exit_code == 0, went_on.stdout + went_on.stderr
    assert "2 processes became 1" in went_on.stdout
    [run_id] = {path.name for path in (lab.root / "runs").glob("spread-*")} - {spread.run_id}
    synced = lab.gptops("sync", run_id)
    assert synced.exit_code == 0, synced.stderr
    run = home(lab, run_id)

    assert manifest.verify(checkpoint(run, 6)).is_whole
    assert largest_difference(tensors(alone, 6), tensors(run, 6)) < 1e-6
    positions = [read_state(checkpoint(folder, 6)).stage_state for folder in (alone, run)]
    assert positions[0] == positions[1]


def test_what_came_home_is_measured_and_exported_on_the_laptop(
    lab: Lab, spread: Spread, alone: Path, tmp_path: Path
) -> None:
    seen = []
    for number, run in enumerate((alone, home(lab, spread.run_id))):
        measured, exported = tmp_path / f"{number}.json", tmp_path / str(number)
        with measured.open("w") as out, contextlib.redirect_stdout(out):
            assert main(["evaluate", str(checkpoint(run, 4)), "--data", str(lab.root / "corpus.txt"), "--json"]) == 0
        assert main(["export", str(checkpoint(run, 4)), str(exported)]) == 0
        [text] = json.loads(measured.read_text())["texts"]
        seen.append((text["loss"], load_file(exported / "model.safetensors")))
    assert seen[0][0] == pytest.approx(seen[1][0], abs=1e-6)
    assert largest_difference(seen[0][1], seen[1][1]) < 1e-6


def test_a_dry_run_names_the_machines_open_or_not(lab: Lab) -> None:
    planned = lab.gptops("train", "spread", "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    assert "nodes:     box0, box1\n" in planned.stdout
    assert "processes: 1 on CPU on each node, by torchrun" in planned.stdout
    closed = gptops("train", "spread", "--dry-run", home=lab.folder / "elsewhere", cwd=lab.root)
    assert "nodes:     box0, box1; not open yet: box0, box1\n" in closed.stdout
    told = gptops("train", "spread", "--dry-run", "--json", home=lab.folder / "elsewhere", cwd=lab.root)
    assert json.loads(told.stdout)["nodes"] == [{"name": f"box{node}", "open": False} for node in (0, 1)]


def paste(lab: Lab, script: str, folder: Path, **by_node: list[str]) -> list[Finished]:
    """Run a script in `folder` on both machines at about the same time, over SSH; how each ended."""
    with ExitStack() as stack:
        started = []
        for node in lab.nodes.all:
            words = " ".join(f"{name}={values[node.number]}" for name, values in by_node.items())
            line = f"cd {folder} && PYTHONPATH={ROOT} {words} sh {script}"
            started.append(stack.enter_context(lab.started("ssh", f"box{node.number}", "--", line)))
            stack.callback(started[-1].kill)  # where the other fails, this one waits for it
        ends = [process.communicate(timeout=240) for process in started]
    return [Finished(process.returncode, *end) for process, end in zip(started, ends, strict=True)]


def test_the_script_for_torchrun_trains_on_both_over_a_disk_they_share(lab: Lab, alone: Path) -> None:
    folder = lab.folder / "shared"  # outside of their homes the machines of this double have one disk
    folder.mkdir()
    shutil.copy(lab.root / "corpus.txt", folder)
    text = lab.gptops("render", "spread", "--for", "torchrun", SPREAD).stdout
    (folder / "two.sh").write_text(text)
    inside = [node.address.host for node in lab.nodes.all]
    ends = paste(
        lab, "two.sh", folder, NODE_RANK=["0", "1"], RENDEZVOUS=[f"{inside[0]}:29400"] * 2, ADDRESS=inside,
        GLOO_SOCKET_IFNAME=["lan0"] * 2,
    )  # fmt: skip
    assert [end.exit_code for end in ends] == [0, 0], ends
    assert "step 4/4" in ends[0].stdout
    run = folder / "runs" / "spread"
    assert {"model/rank_00000.safetensors", "model/rank_00001.safetensors"} < {
        *manifest.verify(checkpoint(run, 4)).files
    }
    assert largest_difference(tensors(alone, 4), tensors(run, 4)) < 1e-6


def test_the_script_for_accelerate_trains_on_both_without_one(lab: Lab, alone: Path) -> None:
    text = lab.gptops("render", "plain", "--for", "accelerate").stdout
    for node in lab.nodes.all:
        (node.home / "project").mkdir()
        shutil.copy(lab.root / "corpus.txt", node.home / "project")
        (node.home / "project" / "two.sh").write_text(text)
    first = lab.nodes[0].address.host
    ends = paste(
        lab, "two.sh", Path("project"), NODE_RANK=["0", "1"], FIRST=[first] * 2, GLOO_SOCKET_IFNAME=["lan0"] * 2
    )
    assert [end.exit_code for end in ends] == [0, 0], ends
    assert "step 4/4" in ends[0].stdout
    runs = [node.home / "project" / "runs" / "plain" for node in lab.nodes.all]
    assert largest_difference(tensors(alone, 4), tensors(runs[0], 4)) < 1e-6
    assert not manifest.published(runs[1] / "checkpoints")
