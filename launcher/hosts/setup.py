"""Make a host ready to train: send setup.sh with its inputs, run it, tell what it says.

What a host needs is known here, from the packages' own metadata, and named by a
hash: the same inputs find the same environment again, on the host
`gptops/venvs/<hash>`. What is there already only setup.sh can see; it is safe to
run any number of times, by any number of us.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from launcher.commands.hosts import set_up
from launcher.errors import GptopsError, HostUnfit, SetupFailed
from launcher.paths import REMOTE_ROOT, REMOTE_VENVS
from launcher.remote.rsync import ssh_error
from launcher.remote.transport import Transport
from launcher.running.render import constraints, template

if TYPE_CHECKING:
    from launcher.spec.jobs import SetupSpec

EXIT_UNFIT = 69
"""setup.sh's answer where the machine lacks something."""
LINES_KEPT = 40
PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@dataclass(frozen=True)
class SetupInputs:
    """Everything that decides what the environment holds."""

    requirements: tuple[str, ...]
    """The trainer's, as pip writes them."""
    extra: tuple[str, ...] = ()
    """The job's own packages."""
    shell: tuple[str, ...] = ()
    """The job's own lines, run in the uploaded code."""
    code: str = ""
    """Where that is, below `gptops/`; counts only where there are lines."""

    @property
    def files(self) -> dict[str, str]:
        """What lies beside setup.sh."""
        return {
            "setup.sh": template("setup.sh"),
            "image.py": template("image.py"),
            "requirements.txt": _lines(self.requirements),
            "extra.txt": _lines(self.extra),
            "constraints.txt": constraints(),
            "shell.sh": _lines(self.shell),
        }

    @property
    def key(self) -> str:
        """The name of the environment: 16 digits of a hash over all of this."""
        content = {**self.files, "code": self.code if self.shell else ""}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def venv(self) -> PurePosixPath:
        """The environment, from the remote home."""
        return REMOTE_VENVS / self.key


def setup_inputs(setup: SetupSpec | None = None, upload: PurePosixPath | None = None) -> SetupInputs:
    """What a job needs; without a job, what the trainer needs. `upload` is the folder of the uploaded code."""
    code = str(upload.relative_to(REMOTE_ROOT)) if upload is not None else ""
    if setup is None:
        return SetupInputs(trainer_requirements())
    return SetupInputs(trainer_requirements(), setup.pip, setup.shell, code)


def trainer_requirements() -> tuple[str, ...]:
    """The `trainer` extra: from pyproject.toml in a clone, from the installed package's metadata else."""
    if PYPROJECT.is_file():
        return _extra_of_pyproject(PYPROJECT.read_text(encoding="utf-8"))
    declared = importlib.metadata.requires("gptops") or []
    return tuple(line.partition(";")[0].strip() for line in declared if re.search(r"extra == ['\"]trainer['\"]", line))


def _extra_of_pyproject(text: str) -> tuple[str, ...]:
    # By hand: Python 3.10 has no tomllib, and the file is our own.
    block = re.search(r"^trainer = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block is not None, "pyproject.toml has no extra `trainer`"
    return tuple(re.findall(r'^\s*"([^"]+)"', block[1], re.MULTILINE))


def run_setup(transport: Transport, inputs: SetupInputs, *, gpus: int, say: Callable[[str], None]) -> PurePosixPath:
    """Run setup.sh to its end, telling each line. Returns the environment. Raises HostUnfit or SetupFailed."""
    environment = f"GPTOPS_GPUS={gpus}\nGPTOPS_CODE='{inputs.code}'\n"
    command = set_up(inputs.key, {**inputs.files, "setup.env": environment})
    with tempfile.TemporaryFile() as feed:
        feed.write(command.stdin)
        feed.seek(0)
        child = subprocess.Popen(
            transport.ssh_argv(command), stdin=feed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        tail = _followed(child, say)
    if child.returncode != 0:
        raise setup_error(child.returncode, tail, transport.host.name)
    return inputs.venv


def _followed(child: subprocess.Popen[bytes], say: Callable[[str], None]) -> list[str]:
    tail: deque[str] = deque(maxlen=LINES_KEPT)
    assert child.stdout is not None
    try:
        with child.stdout:
            for raw in child.stdout:
                line = raw.decode(errors="replace").rstrip()
                tail.append(line)
                if not re.match(r"(error|why|hint): ", line):
                    say(line)
    except BaseException:
        child.terminate()
        raise
    finally:
        child.wait()
    return list(tail)


def setup_error(exit_code: int, tail: Sequence[str], host_name: str) -> GptopsError:
    """What setup.sh's end means."""
    said = {match[1]: match[2] for line in tail if (match := re.match(r"(error|why|hint): (.*)", line))}
    if exit_code == 255:
        return ssh_error("\n".join(tail), host_name)
    if exit_code == EXIT_UNFIT and "error" in said:
        return HostUnfit(said["error"], why=said.get("why", ""), hint=said.get("hint", ""))
    text = "\n".join(tail)
    if "No space left on device" in text or "Disk quota exceeded" in text:
        why = next(line for line in tail if "No space left" in line or "quota exceeded" in line)
        return HostUnfit(f"the disk is full on `{host_name}`", why=why, hint=f"gptops ssh {host_name} -- df -h")
    return SetupFailed(
        f"the set-up of `{host_name}` failed (code {exit_code})",
        why="\n".join(line for line in tail[-8:] if line) or "it said nothing",
        hint=f"gptops ssh {host_name} -- tail -n 50 gptops/logs/setup.log",
    )


def _lines(items: Sequence[str]) -> str:
    return "".join(item + "\n" for item in items)
