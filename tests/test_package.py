"""The wheel: built from the clone, installed into a bare environment, used from a folder that is not the clone.

Its dependencies come from this environment by a .pth file: nothing is fetched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("build", reason="the package `build` is not installed")
pytest.importorskip("hatchling", reason="the package `hatchling` is not installed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the wheel alone, and this one's packages behind it."""
    folder = tmp_path_factory.mktemp("bare") / "environment with a space"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(answer(python, "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    argv += ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # After the wheel's own files on the path, and without an editable install's hooks to the clone.
    (site / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def answer(python: Path, program: str) -> str:
    """What a program prints, from a folder that is not the clone."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-c", program], capture_output=True, text=True, cwd=python.parent, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_both_packages_and_what_they_ship(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    shipped = {f"launcher/templates/{path.name}" for path in (ROOT / "templates").iterdir() if path.is_file()}
    assert shipped <= names
    assert {
        "launcher/constraints.txt",
        "launcher/jobs.yaml",
        "launcher/cli/__init__.py",
        "trainer/manifest.py",
    } <= names
    assert any(name.startswith("trainer/data/") and name.endswith(".txt") for name in names), "the sample text"
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "docs/")) or "__pycache__" in name]


def test_the_installed_templates_are_found_and_are_those_of_the_clone(installed: Path) -> None:
    names = sorted(path.name for path in (ROOT / "templates").iterdir() if path.is_file())
    program = (
        "import json, launcher; from launcher.running.render import constraints, example_jobs, template\n"
        f"texts = [template(name) for name in {names!r}] + [constraints(), example_jobs()]\n"
        "print(json.dumps([launcher.__file__, texts]))"
    )
    where, texts = json.loads(answer(installed / "python", program))
    assert Path(where).is_relative_to(installed.parent), "it is the wheel that is tested"
    files = [*(ROOT / "templates" / name for name in names), ROOT / "constraints.txt", ROOT / "jobs.yaml"]
    assert texts == [path.read_text(encoding="utf-8") for path in files]


def test_the_installed_command_runs_away_from_the_clone(installed: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for words, expected in (
        (["--help"], "Usage: gptops"),
        (["init"], ""),
        (["check", "--job", "demo"], "stage: pretrain"),
    ):
        argv = [str(installed / "gptops"), *words]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_the_trainer_that_is_sent_to_hosts_is_whole_in_the_wheel(installed: Path) -> None:
    program = "import json; from launcher.running.upload import trainer_files; print(json.dumps(trainer_files()))"
    sent = set(json.loads(answer(installed / "python", program)))
    tracked = subprocess.run(["git", "ls-files", "-z", "trainer"], capture_output=True, text=True, cwd=ROOT)
    if tracked.returncode != 0:
        pytest.skip("this is no clone")
    assert {name for name in tracked.stdout.split("\0") if name and (ROOT / name).exists()} <= sent
