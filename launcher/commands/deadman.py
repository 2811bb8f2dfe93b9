"""What is typed on a host for its dead-man's switch: put it there, arm it, visit it, ask it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.paths import REMOTE_ROOT, RemoteRun
from launcher.remote.transport import Command

REMOTE_DEADMAN = REMOTE_ROOT / "deadman"

_INSTALL = """\
set -e
umask 077
mkdir -p -- "$1"
cat >"$1/deadman.sh.new"
mv -f -- "$1/deadman.sh.new" "$1/deadman.sh"
"""

_VISIT = """\
while IFS=' ' read -r step hash; do
    [ -d "$2" ] || break
    mkdir -p -- "$2/home"
    printf '%s\\n' "$hash" >"$2/home/$step.new" && mv -f -- "$2/home/$step.new" "$2/home/$step"
done
[ -f "$1/deadman.sh" ] || exit 0
exec sh "$1/deadman.sh" visit
"""


def install(script: str) -> Command:
    """Put deadman.sh in its place; one that watches already goes on with the text it has read."""
    return Command(("sh", "-c", _INSTALL, "sh", str(REMOTE_DEADMAN)), stdin=script.encode())


def arm(plan: str) -> Command:
    """Give it a plan, which replaces an earlier one, and let it watch."""
    return Command(("sh", str(REMOTE_DEADMAN / "deadman.sh"), "arm"), stdin=plan.encode())


def limit(run: RemoteRun, seconds: int) -> Command:
    """Let it stop one run in that time."""
    return Command(("sh", str(REMOTE_DEADMAN / "deadman.sh"), "limit", run.run_id, str(seconds)))


def visit(run: RemoteRun, at_home: Mapping[str, str]) -> Command:
    """Tell it that somebody came, and which checkpoints of a run (name → hash of the manifest) are verified at home.

    Prints nothing where the host has no switch.
    """
    marks = "".join(f"{name} {sha256}\n" for name, sha256 in sorted(at_home.items()))
    return Command(("sh", "-c", _VISIT, "sh", str(REMOTE_DEADMAN), str(run.status)), stdin=marks.encode())


def status() -> Command:
    """Print what is true of it now; fails where there is none."""
    return Command(("sh", str(REMOTE_DEADMAN / "deadman.sh"), "status"))
