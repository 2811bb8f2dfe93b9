"""What a start of gptops imports, in fresh interpreters: asserted on sys.modules, never on time.

The measure is a minimal Typer app in the same environment: whatever third-party
package it loads for the same words is Typer's own (rich for help, pydantic for
arguments, since Typer 0.29). Beyond that `gptops --help` loads nothing, and
`gptops ps` only platformdirs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli.verbs import PANELS, VERBS

ROOT = Path(__file__).parents[2]
NEVER = {
    "torch", "numpy", "transformers", "datasets", "accelerate", "tokenizers", "tiktoken",
    "fabric", "paramiko", "invoke", "cryptography", "nacl", "bcrypt", "yaml", "psutil",
}  # fmt: skip
NOT_OURS_EITHER = {
    "launcher.remote.ssh",
    "launcher.spec.jobs",
    "launcher.spec.jobs_file",
    "trainer.config",
    "rich.progress",
    "rich.live",
}

PEER = """
import typer
app = typer.Typer()
@app.command()
def ps(as_json: bool = typer.Option(False, "--json")) -> None: "List what is open."
@app.command()
def down(host: str) -> None: "Close a host."
app(standalone_mode=False)
"""
OURS = "from launcher.cli import main; main()"
TELL = "\nimport json, os, sys; os.write(2, json.dumps(sorted(sys.modules)).encode())"


def modules_after(program: str, *words: str) -> set[str]:
    """The names in sys.modules when `program` has run with `words` as its command line."""
    program = f"import sys; sys.argv = ['x', *{list(words)!r}]\n{program}{TELL}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    line = done.stderr.rpartition("\n")[2]
    return set(json.loads(line[line.index("[") :]))


def packages(modules: set[str]) -> set[str]:
    """The third-party packages among them."""
    tops = {name.split(".")[0] for name in modules}
    return {
        name
        for name in tops
        if name not in sys.stdlib_module_names and not name.startswith(("_", "launcher", "trainer"))
    }


@pytest.mark.parametrize(("words", "more"), [(("--help",), set()), (("ps",), {"platformdirs"})])
def test_a_start_loads_no_package_that_a_minimal_typer_app_does_not(words: tuple[str, ...], more: set[str]) -> None:
    ours = modules_after(OURS, *words)
    assert "launcher.cli" in ours
    extra = packages(ours) - packages(modules_after(PEER, *words))
    assert extra <= more
    assert not packages(ours) & NEVER
    assert not ours & NOT_OURS_EITHER


def test_ps_loads_no_rich_at_all() -> None:
    assert "rich" not in packages(modules_after(OURS, "ps"))


def test_the_help_of_no_verb_loads_anything_heavy() -> None:
    helps = "".join(f"\nmain([{verb.name!r}, '--help'])" for verb in VERBS)
    loaded = modules_after(OURS + helps, "--version")
    assert {verb.module for verb in VERBS} <= loaded
    assert not packages(loaded) & NEVER
    assert not loaded & NOT_OURS_EITHER


def test_the_version_does_not_import_a_single_verb() -> None:
    assert not {verb.module for verb in VERBS} & modules_after(OURS, "--version")


def test_every_verb_stands_under_a_heading_and_once() -> None:
    names = [verb.name for verb in VERBS]
    assert len(set(names)) == len(names)
    assert {verb.panel for verb in VERBS} == set(PANELS)


def test_a_ctrl_c_while_python_imports_ends_it_without_a_traceback() -> None:
    """An import hook stands in for the moment: Ctrl-C when `launcher.cli` is asked for."""
    program = (
        "import os, signal, sys\n"
        "class Hook:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'launcher.cli':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Hook())\n"
        "from launcher.__main__ import run\n"
        "run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
