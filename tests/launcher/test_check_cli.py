"""`gptops check`, `schema`, `init`: what is printed, where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.errors import ExitCode
from trainer.config import parse_yaml

ROOT = Path(__file__).parents[2]
SMALL = "jobs: {a: {stage: pretrain, train: {train: {max_steps: 200}}}}\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def test_the_whole_example_is_valid_and_what_is_missing_here_is_a_warning(
    capsys: pytest.CaptureFixture[str], golden: Callable[[str, str], None]
) -> None:
    assert main(["init"]) == 0
    capsys.readouterr()
    assert main(["check"]) == 0
    captured = capsys.readouterr()
    golden("launcher_check.txt", captured.out)
    golden("launcher_check_warnings.txt", captured.err)


def test_one_job_is_printed_resolved_with_its_plan_as_yaml_that_checks_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("jobs.yaml", SMALL)
    assert main(["check", "train.max_steps=300", "optim.lr=1e-3"]) == 0
    out = capsys.readouterr().out
    job = parse_yaml(out, "out")["jobs"]["a"]
    assert (job["stage"], job["resources"]["gpus"], job["train"]["train"]["max_steps"]) == ("pretrain", 0, 300)
    assert "# tokens       9,830,400 = 300 steps x 32,768" in out
    write("again.yaml", out)
    assert main(["check", "again.yaml"]) == 0
    assert capsys.readouterr().out == out


def test_a_gpu_job_says_how_long_and_what_it_may_cost(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        "jobs.yaml",
        "defaults: {stage: pretrain, budget: {max_hours: 3}}\n"
        "jobs: {a: {provider: ssh, resources: {gpus: 2, max_price_per_hour: 4}}}",
    )
    assert main(["check", "--job", "a"]) == 0
    out = capsys.readouterr().out
    assert "# micro-steps  2 a step on 2 GPUs" in out
    assert "A100" in out
    assert "# cost         at most 12.00 USD" in out


def test_json_has_the_job_the_plan_and_the_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    write("jobs.yaml", (ROOT / "jobs.yaml").read_text())
    assert main(["check", "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    assert jobs["demo"]["supported"] is True
    assert jobs["demo"]["plan"]["steps"] == jobs["demo"]["job"]["train"]["train"]["max_steps"]
    assert jobs["pretrain"]["plan"]["parameters"] == 124_475_904
    assert jobs["sft"]["plan"]["parameters"] == jobs["pretrain"]["plan"]["parameters"]  # it begins from that job
    assert jobs["dpo"]["job"]["train"]["model"]["n_layers"] == 12


def test_a_job_of_a_later_version_is_a_warning_and_asked_for_by_name_the_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("jobs.yaml", "jobs: {a: {stage: pretrain, resources: {nodes: 2}}, b: {stage: pretrain}}")
    assert main(["check", "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    assert (jobs["a"]["supported"], jobs["b"]["supported"]) == (False, True)
    assert "2 at `local`: all nodes would be this one machine" in jobs["a"]["warnings"][0]
    assert main(["check", "--job", "a"]) == ExitCode.JOBS
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2 at `local`: all nodes would be this one machine" in captured.err


def test_the_problems_of_all_jobs_come_in_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        "jobs.yaml",
        "defaults: {stage: pretrain}\n"
        "jobs: {a: {train: {optim: {lr: fast}}}, b: {train: {seeed: 1}}, c: {train: no.yaml}, d: {}}",
    )
    assert main(["check", "--json"]) == ExitCode.JOBS
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["what"].splitlines() == [
        "jobs.yaml: jobs.a.train.optim.lr: `'fast'` is not a number",
        "jobs.yaml: jobs.b.train.seeed: unknown key (did you mean `seed`?)",
        "jobs.yaml: jobs.c.train: there is no file `no.yaml` beside it",
    ]


def test_the_file_is_found_from_a_folder_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("jobs.yaml", SMALL)
    write("src/deep/x.py", "")
    monkeypatch.chdir("src/deep")
    assert main(["check"]) == 0
    assert "stage: pretrain" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["my jobs.yaml", "a=b.yaml", "$(touch pwned).yaml", "new\nline.yaml", "quo'te\".yaml"])
def test_any_file_name_is_a_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(name, SMALL)
    assert main(["check", name, "train.max_steps=150"]) == 0
    assert "max_steps: 150" in capsys.readouterr().out
    write(name, "jobs: {a: {stage: x}}")
    assert main(["check", name]) == ExitCode.JOBS


def test_a_missing_file_says_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == ExitCode.JOBS
    assert capsys.readouterr().err == "error: jobs.yaml: no such file\nhint:  gptops init\n"


def test_a_word_that_is_neither_file_nor_override_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    write("jobs.yaml", SMALL)
    assert main(["check", "jobs.yaml", "max_steps"]) == ExitCode.USAGE
    assert "`max_steps` is not of the form key=value" in capsys.readouterr().err


def test_data_that_the_host_would_not_have_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    write("jobs.yaml", "jobs: {a: {stage: pretrain, train: {data: {path: data/corpus}}}}")
    assert main(["check"]) == 0
    assert "there is no `data/corpus` here to upload" in capsys.readouterr().err
    subprocess.run(["git", "init", "-q"], check=True)
    write("data/corpus/a.txt", "text")
    assert main(["check"]) == 0
    assert "warning" not in capsys.readouterr().err
    write(".gitignore", "data/\n")
    assert main(["check"]) == 0
    assert "`data/corpus` is left out of the upload (.gitignore?)" in capsys.readouterr().err


def test_a_secret_that_is_not_set_here_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("jobs.yaml", "jobs: {a: {stage: pretrain, secrets: [NOT_YET_SET]}}")
    assert main(["check"]) == 0
    assert "warning: jobs.a.secrets: `NOT_YET_SET` is not set in this shell" in capsys.readouterr().err
    monkeypatch.setenv("NOT_YET_SET", "now")
    assert main(["check"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_init_writes_what_check_accepts_and_never_overwrites(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["init", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"jobs_file": str(tmp_path / "jobs.yaml")}
    assert main(["check", "--job", "demo"]) == 0
    write("jobs.yaml", "mine")
    assert main(["init"]) == ExitCode.USAGE
    assert Path("jobs.yaml").read_text() == "mine"
    assert main(["init", "no/such/folder"]) == ExitCode.LOCAL_FAULT


def test_the_schema_is_printed_for_editors_and_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "gptops jobs.yaml"
    assert main(["schema", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
