"""What is typed on a login node to look at the machines behind it (templates/look.py). Pure.

The job that looks is a run in all but its training: its folder has run.sh, slurm.sh
and job.sbatch, so it is submitted, asked and taken back as every run is.
"""

from __future__ import annotations

from collections.abc import Iterable

from launcher.commands.runs import RunFile, tar_of
from launcher.paths import RemoteRun
from launcher.remote.transport import Command


def install(run: RemoteRun, files: Iterable[RunFile]) -> Command:
    """Make its folder."""
    return Command(("sh", "-ec", 'mkdir -p -- "$1" && tar -xf - -C "$1"', "sh", str(run.root)), stdin=tar_of(files))


_TICK = 'cd -- "$1" && date +%s >clock.tmp && mv -f clock.tmp clock && exec sh ./run.sh status'


def tick(run: RemoteRun) -> Command:
    """Write down the login node's time, for the nodes to read, and print how the job is."""
    return Command(("sh", "-c", _TICK, "sh", str(run.root)))


_ANSWERS = """\
cd -- "$1/looks" 2>/dev/null || exit 0
for file in *.node *.torch *.reduce; do
    [ ! -f "$file" ] || printf '%s\\t%s\\n' "$file" "$(cat "$file")"
done
"""


def answers(run: RemoteRun) -> Command:
    """Print what was found: the name of each answer, a tab, and the answer."""
    return Command(("sh", "-c", _ANSWERS, "sh", str(run.root)))


def last_words(run: RemoteRun) -> Command:
    """Print the end of what its processes and their starters said."""
    return Command(("sh", "-c", 'cd -- "$1/logs" && tail -qn 8 starter.log train.log', "sh", str(run.root)))
