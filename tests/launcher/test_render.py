"""The texts that ship: found, and programs that a shell can read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from launcher.running.render import constraints, example_jobs, template

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted(path.name for path in (ROOT / "templates").iterdir() if path.is_file())


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_is_found_and_is_the_file(name: str) -> None:
    assert template(name) == (ROOT / "templates" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.endswith(".sh")])
def test_every_shell_template_parses(name: str) -> None:
    done = subprocess.run(["bash", "-n"], input=template(name), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.endswith(".py")])
def test_every_python_template_compiles(name: str) -> None:
    assert compile(template(name), name, "exec").co_filename == name


def test_the_constraints_pin_torch_and_the_example_is_there() -> None:
    assert "torch==" in constraints()
    assert "\njobs:\n" in example_jobs()
