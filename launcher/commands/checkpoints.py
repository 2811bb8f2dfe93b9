"""What sync types on a host: list the whole checkpoints, remove one that is verified at home. Pure.

The program is our own copy of trainer/manifest.py, fed to the host's python3 on
stdin: it needs nothing installed or uploaded there, and both sides agree on
what a whole checkpoint is whatever became of the code on the host.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from launcher.remote.transport import Command
from trainer import manifest


def list_checkpoints(folder: PurePosixPath) -> Command:
    """Print the whole checkpoints in `folder`, with their manifests, as one line of JSON."""
    return _manifest_program("list", str(folder))


def verify_checkpoint(checkpoint: PurePosixPath) -> Command:
    """Read every file of one checkpoint there; a non-zero exit says that it is damaged."""
    return _manifest_program("verify", str(checkpoint))


def remove_checkpoint(checkpoint: PurePosixPath, manifest_sha256: str) -> Command:
    """Remove a checkpoint so that no reader sees half of it, provided its manifest still has this hash."""
    return _manifest_program("remove", str(checkpoint), manifest_sha256)


def _manifest_program(*arguments: str) -> Command:
    # -I: a re.py in the remote home must not become part of the program.
    return Command(("python3", "-I", "-", *arguments), stdin=Path(manifest.__file__).read_bytes())


_PUBLISH = """\
set -e
if [ -d "$2" ]; then rm -rf -- "$1"; else mv -- "$1" "$2"; fi
rmdir -- "${1%/*}" 2>/dev/null || true
"""


def publish_checkpoint(arrived: PurePosixPath, final: PurePosixPath) -> Command:
    """Give a verified transfer its name, in one rename, and clear up the folder it came through. Done is success."""
    return Command(("sh", "-c", _PUBLISH, "sh", str(arrived), str(final)))
