"""Who may know whom: read from the source of both packages, and seen in fresh interpreters."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("launcher", "trainer")
DOORWAY = {"trainer.config", "trainer.manifest", "trainer.sizing", "trainer.schedule", "trainer.errors"}
"""What the launcher may import of the trainer. `errors` is the family that `config` raises."""
HEAVY = {"torch", "transformers", "accelerate", "datasets", "tokenizers", "tiktoken", "numpy"}


@dataclass(frozen=True)
class Import:
    """One imported module, and whether it waits inside a function."""

    where: str
    line: int
    module: str
    is_late: bool

    def __str__(self) -> str:
        return f"{self.where}:{self.line} imports {self.module}"


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[Import]:
    where = path.relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from _imports_below(tree, where, is_late=False)


def _imports_below(node: ast.AST, where: str, *, is_late: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue  # for the type checker; nothing runs
        if isinstance(child, ast.Import):
            for name in child.names:
                yield Import(where, child.lineno, name.name, is_late)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{where}:{child.lineno}: relative imports hide who knows whom"
            assert child.module is not None
            for name in child.names:
                yield Import(where, child.lineno, _module_meant(child.module, name.name), is_late)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports_below(child, where, is_late=is_late or inside)


def _module_meant(module: str, name: str) -> str:
    """`trainer.manifest` for `from trainer import manifest`; `trainer.config` for a name inside it."""
    inner = ROOT / module.replace(".", "/") / name
    return f"{module}.{name}" if inner.is_dir() or inner.with_suffix(".py").is_file() else module


def all_imports(package: str) -> list[Import]:
    return [each for path in sources(package) for each in imports_of(path)]


def is_below(module: str, *parents: str) -> bool:
    return any(module == parent or module.startswith(f"{parent}.") for parent in parents)


def test_the_launcher_knocks_only_at_the_doorway() -> None:
    knocks = [each for each in all_imports("launcher") if is_below(each.module, "trainer")]
    outside = [str(each) for each in knocks if not is_below(each.module, *DOORWAY) and each.module != "trainer"]
    assert not outside
    packages = {each.where for each in knocks if each.module == "trainer"}
    assert packages <= {"launcher/running/upload.py"}  # asks where the package lies, to send it


def test_the_trainer_knows_nothing_of_the_launcher_and_its_packages() -> None:
    foreign = ("launcher", "fabric", "paramiko", "invoke", "typer", "click", "rich", "platformdirs", "psutil")
    assert not [str(each) for each in all_imports("trainer") if is_below(each.module, *foreign)]


def test_the_launcher_never_imports_what_trains_not_even_late() -> None:
    assert not [str(each) for each in all_imports("launcher") if is_below(each.module, *HEAVY)]


def test_the_doorway_is_free_of_torch() -> None:
    programs = "; ".join(f"import {module}" for module in sorted(DOORWAY))
    assert not loaded_after(programs) & HEAVY


@pytest.mark.parametrize(
    ("module", "owners"),
    [
        ("rich", {"launcher/screen.py"}),
        ("time", {"launcher/clock.py"}),
        ("typer", {"launcher/cli"}),
        ("sqlite3", {"launcher/books/ledger_file.py"}),
        ("fabric", {"launcher/remote/ssh_login.py"}),
        ("httpx2", {"launcher/providers/http.py"}),
        ("yaml", set()),
    ],
)
def test_what_one_module_of_the_launcher_knows_no_other_does(module: str, owners: set[str]) -> None:
    knowing = {each.where for each in all_imports("launcher") if is_below(each.module, module)}
    assert {
        where for where in knowing if not any(where == owner or where.startswith(f"{owner}/") for owner in owners)
    } == set()


def test_nothing_below_the_command_line_knows_it() -> None:
    upward = [
        str(each)
        for each in all_imports("launcher")
        if is_below(each.module, "launcher.cli") and not each.where.startswith(("launcher/cli/", "launcher/__main__"))
    ]
    assert not upward


def test_values_know_nobody_who_acts() -> None:
    """host, errors, clock, paths, jobs and transport stand at the bottom; commands are pure."""
    acting = (
        "launcher.remote.ssh",
        "launcher.books.ledger",
        "launcher.checkpoints.sync",
        "launcher.running.upload",
        "launcher.console",
        "launcher.providers",
    )
    bottom = ("remote/host", "errors", "clock", "paths", "spec/jobs", "remote/transport", "project")
    low = [
        *(f"launcher/{name}.py" for name in bottom),
        *(p.relative_to(ROOT).as_posix() for p in sources("launcher/commands")),
    ]
    assert not [str(each) for each in all_imports("launcher") if each.where in low and is_below(each.module, *acting)]


def test_no_provider_knows_another() -> None:
    providers = ("local", "ssh", "vast", "runpod", "lambda_cloud")
    for each in all_imports("launcher"):
        for own in providers:
            if each.where.startswith(f"launcher/providers/{own}"):
                others = [f"launcher.providers.{other}" for other in providers if other != own]
                assert not is_below(each.module, *others), str(each)


def test_no_stage_knows_another() -> None:
    stages = ("pretrain", "sft", "dpo", "orpo", "reward", "ppo", "grpo", "rgpo")
    knowing = [
        str(each)
        for each in all_imports("trainer")
        if each.where.startswith("trainer/stages/")
        and each.where != "trainer/stages/__init__.py"
        and is_below(each.module, *(f"trainer.stages.{stage}" for stage in stages))
    ]
    assert not knowing


def test_what_a_stage_is_made_of_knows_no_stage() -> None:
    rooms = ("models", "chats", "rollouts", "rewards", "data", "tokenizer", "checkpoints", "config")
    upward = [
        str(each)
        for each in all_imports("trainer")
        if each.where.startswith(tuple(f"trainer/{room}/" for room in rooms))
        and is_below(each.module, "trainer.stages", "trainer.cli")
    ]
    assert not upward


def test_late_imports_are_few_and_each_has_its_reason() -> None:
    """Verbs import what they call when they are called. Elsewhere a late import is slow, or chosen by a word."""
    reasons = {
        "launcher/__main__.py": ("launcher.cli",),  # what a Ctrl-C may interrupt
        "launcher/console.py": ("json",),
        "launcher/screen.py": ("rich",),
        "launcher/remote/ssh.py": ("paramiko",),
        "launcher/remote/ssh_login.py": ("fabric", "paramiko"),
        "launcher/remote/pinning.py": ("paramiko",),
        "launcher/spec/host_request.py": ("launcher.spec.jobs_file",),  # brings yaml and pydantic
        "launcher/providers/local_processes.py": ("psutil",),
        "launcher/providers/by_name.py": ("launcher.providers",),
        "launcher/managed/notice.py": ("urllib",),  # brings http and ssl, for those who have a webhook
        "launcher/providers/http.py": ("httpx2",),
    }
    late = [each for each in all_imports("launcher") if each.is_late and not each.where.startswith("launcher/cli/")]
    assert not [str(each) for each in late if not is_below(each.module, *reasons.get(each.where, ()))]


def test_a_fresh_interpreter_with_the_whole_launcher_has_no_torch() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in sources("launcher")
    ]
    programs = "; ".join(f"import {name}" for name in names if not name.endswith("__main__"))
    loaded = loaded_after(programs)
    assert "launcher" in loaded
    assert not loaded & HEAVY


def loaded_after(program: str) -> set[str]:
    """The top-level names in sys.modules of a fresh interpreter."""
    program += "; import sys; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    return set(done.stdout.split())
