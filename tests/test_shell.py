"""Every shell script, read by shellcheck: what a rented machine runs must not depend on luck with quotes."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHELLCHECK = Path(sysconfig.get_path("scripts")) / "shellcheck"


def scripts() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "scripts", "templates", ".ci"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split() if is_shell(ROOT / name)]


def is_shell(path: Path) -> bool:
    first = path.read_bytes().split(b"\n", 1)[0]
    return path.suffix in (".sh", ".sbatch") or (first.startswith(b"#!") and first.endswith((b"sh", b"bash")))


@pytest.mark.parametrize("name", scripts())
def test_shellcheck_finds_nothing(name: str) -> None:
    command = [SHELLCHECK, "--external-sources", "--source-path=SCRIPTDIR", name]
    if name == "templates/skypilot.sh":  # a part of a task, for the bash that SkyPilot runs it with
        command.insert(1, "--shell=bash")
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, ""), found.stdout + found.stderr


def test_no_script_is_left_out() -> None:
    assert {"templates/run.sh", "templates/job.sbatch", "scripts/test", "scripts/bench"} <= set(scripts())
