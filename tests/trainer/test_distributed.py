"""Several processes are one training, or it does not begin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainer.tiny import ROOT, largest_difference, rows, run_trainer, tiny_config, train_tiny, weights
from trainer.errors import DataError, EngineError, ExitCode
from trainer.loop.distributed import opened_world

EXACT = ("model.dropout=0", "train.max_steps=5", "eval.every_steps=5", "train.micro_batch_size=2")


def opened(tmp_path: Path, *overrides: str, **environ: str) -> None:
    with opened_world(tiny_config(tmp_path, *overrides).train, {"OMP_NUM_THREADS": "1", **environ}):
        pass


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    code, out, err = run_trainer(tmp_path / "two", *EXACT, processes=2)
    assert code == 0, out + err
    assert "2 x CPU" in out
    train_tiny(tmp_path / "one", *EXACT)
    assert largest_difference(weights(tmp_path / "one", 5), weights(tmp_path / "two", 5)) < 1e-6
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-5)


def test_what_all_processes_have_to_say_is_said_once_and_none_loses_its_exit_code(tmp_path: Path) -> None:
    code, out, err = run_trainer(tmp_path / "run", "data.path=/nowhere", processes=2)
    assert code == 1  # torchrun's own
    assert (out + err).count("error: ") == 1
    assert err.count("exitcode  : 3") == 2, err


def test_a_process_that_is_not_as_many_as_was_asked_refuses_to_train(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="2 processes should train together, and this one finds 1") as caught:
        opened(tmp_path, GPTOPS_EXPECTED_PROCESSES="2")
    assert "accelerate launch --cpu" in caught.value.why
    with pytest.raises(EngineError, match="4 processes should train together"):
        opened(tmp_path, WORLD_SIZE="4")


def test_tasks_of_slurm_that_do_not_know_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="Slurm started 4 tasks") as caught:
        opened(tmp_path, SLURM_NTASKS="4")
    assert "torchrun" in caught.value.hint
    with pytest.raises(EngineError, match="Slurm started 2 tasks") as caught:
        opened(tmp_path, SLURM_STEP_NUM_TASKS="2", SLURM_NNODES="2", SLURM_PROCID="1")
    assert "--nnodes=2" in caught.value.hint
    opened(tmp_path, SLURM_NTASKS="1", SLURM_PROCID="0")


def test_a_task_of_srun_without_torchrun_ends_with_a_code_and_trains_nothing(tmp_path: Path) -> None:
    code, _out, err = run_trainer(tmp_path / "run", SLURM_NTASKS="2", SLURM_NNODES="1", SLURM_PROCID="1")
    assert code == ExitCode.ENGINE
    assert err.startswith("error: Slurm started 2 tasks that know nothing of each other\nwhy:   each would train")
    assert not (tmp_path / "run").exists()


def accelerate_launch(tmp_path: Path, processes: int) -> subprocess.CompletedProcess[str]:
    arguments = [f"out_dir={tmp_path}/run", "data.tokenizer.kind=bytes", "model.d_model=32", "model.max_seq_len=32"]
    steps = ["train.max_steps=2", "schedule.warmup_steps=0", "eval.num_batches=1", "train.device=cpu"]
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes", str(processes), "-m", "trainer"]
    return subprocess.run(
        [sys.executable, "-m", *launch, "pretrain", *arguments, *steps],
        cwd=ROOT,
        env={**os.environ, "GPTOPS_EXPECTED_PROCESSES": str(processes), "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_accelerate_launch_starts_a_training_too(tmp_path: Path) -> None:
    result = accelerate_launch(tmp_path, 1)
    assert result.returncode == 0, result.stderr
    assert "done: step 2" in result.stdout


def test_accelerate_launch_that_quietly_starts_one_process_for_two_is_found_out(tmp_path: Path) -> None:
    result = accelerate_launch(tmp_path, 2)
    assert result.returncode != 0
    assert "error: 2 processes should train together, and this one finds 1" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_a_gpu_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="there is no usable GPU"):
        opened(tmp_path, "train.device=cuda")


def test_fp16_on_a_cpu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="fp16 needs a GPU"):
        opened(tmp_path, "train.precision=fp16")


def test_a_world_of_one_agrees_with_itself(tmp_path: Path) -> None:
    def fail() -> None:
        raise DataError("no")

    with opened_world(tiny_config(tmp_path).train) as world:
        assert world.totals([1.0, 2.5]) == [1.0, 2.5]
        assert world.gather("x") == ["x"]
        assert not world.any(False)
        assert world.first_then_all(lambda: 3) == 3
        with pytest.raises(DataError):
            world.on_all(fail)


def test_two_trainings_in_one_folder_are_one_too_many(tmp_path: Path) -> None:
    from trainer.checkpoints.out_dir import claimed

    with (
        opened_world(tiny_config(tmp_path).train) as world,
        claimed(tmp_path, world),
        pytest.raises(EngineError, match="another training works in") as caught,
        claimed(tmp_path, world),
    ):
        pass
    assert caught.value.hint == f"ps -fp {os.getpid()}"
    train_tiny(tmp_path, "train.max_steps=3")


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot write in"):
        train_tiny(tmp_path / "file" / "run")
