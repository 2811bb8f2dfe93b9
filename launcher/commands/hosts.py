"""What is typed on a host to look at it and to set it up. Pure."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence

from launcher.paths import REMOTE_ROOT
from launcher.remote.transport import Command

_SET_UP = """\
set -e
umask 077
mkdir -p -- "$1"
tar -xf - -C "$1"
exec sh "$1/setup.sh"
"""


def set_up(key: str, files: Mapping[str, str]) -> Command:
    """Put setup.sh and its inputs into a folder of their own and run it. They travel on stdin, as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in sorted(files.items()):
            content = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return Command(("sh", "-c", _SET_UP, "sh", str(REMOTE_ROOT / "setups" / key)), stdin=buffer.getvalue())


def gpu_names() -> Command:
    """Print the model of each GPU, one a line. 127 where there is no nvidia-smi."""
    return Command(("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"))


def drivers() -> Command:
    """Print the driver of each GPU, one a line: `580.65.06`."""
    return Command(("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"))


def gpu_use() -> Command:
    """Print how busy each GPU is, in percent, one a line."""
    return Command(("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"))


def answer() -> Command:
    """The least a host can do."""
    return Command(("true",))


def typed(words: Sequence[str]) -> Command:
    """What a person typed after `--`: one word is a line for the host's shell, several are the words of one command."""
    return Command(("sh", "-c", words[0]) if len(words) == 1 else tuple(words))
