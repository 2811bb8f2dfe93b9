"""Put a checkpoint that is verified at home into a run that has not begun yet: the way back of sync.

    read every byte here → push into .incoming/ → every byte read there → rename

The run then finds it as its own and goes on from it; so does its metrics.jsonl, so
that the loss is one line over every host the training was on. Nothing at home changes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from launcher.checkpoints.pull import Progress
from launcher.clock import Clock
from launcher.commands.checkpoints import publish_checkpoint, verify_checkpoint
from launcher.crash import crashpoint
from launcher.errors import HostUnfit, LocalFault, NotVerified, Unreachable
from launcher.paths import LocalRun
from launcher.remote.backoff import Backoff
from launcher.remote.transport import Command, Transport
from trainer import manifest
from trainer.manifest import BrokenCheckpoint

TRIES = 4
"""Of the transfer: what has arrived stays in .incoming/, so each goes on where the one before it was cut."""
VERIFY_SECONDS = 1800.0
"""For reading a large checkpoint from a slow disk."""


@dataclass(frozen=True)
class Restored:
    """A checkpoint that is in place on the host."""

    step: int
    bytes: int


def newest_at_home(runs: Iterable[LocalRun]) -> Path | None:
    """The newest checkpoint of these runs whose every byte is what was written; None where there is none."""
    # Of the same step in two runs, the later run's: it has the rest of the curve.
    found = [
        (manifest.step_of(path.name) or 0, age, path)
        for age, run in enumerate(runs)
        for path in manifest.checkpoints(run.checkpoints)
    ]
    for _step, _age, path in sorted(found, reverse=True):
        try:
            manifest.verify(path)
            return path
        except BrokenCheckpoint:
            continue  # the one before it will do; the broken one stays where it is
    return None


def restore(
    transport: Transport, checkpoint: Path, remote_root: PurePosixPath, progress: Progress, clock: Clock
) -> Restored:
    """Bring `checkpoint` and the metrics up to its step into the run's folder `remote_root`.

    Raises NotVerified where it is damaged here, HostUnfit where the host cannot take it or damages it twice.
    """
    done = bring(transport, checkpoint, remote_root / "checkpoints", progress, clock)
    _send_metrics(transport, LocalRun(checkpoint.parent.parent), done.step, remote_root)
    crashpoint("restore:published")
    return done


def bring(transport: Transport, checkpoint: Path, folder: PurePosixPath, progress: Progress, clock: Clock) -> Restored:
    """Put `checkpoint` into `folder` on the host, whole or not at all. Raises as `restore` does."""
    whole = _read_here(checkpoint)
    arriving = folder / ".incoming" / checkpoint.name
    for is_last in (False, True):
        _push(transport, checkpoint, whole, arriving, progress, clock)
        crashpoint("restore:pushed")
        if _arrived_whole(transport, arriving, is_last=is_last):
            break
        _do(transport, Command(("rm", "-rf", "--", str(arriving))))  # rsync believes a file of the same size and time
    _do(transport, publish_checkpoint(arriving, folder / checkpoint.name))
    return Restored(whole.step, whole.total_bytes)


def adopt(checkpoint: Path, run: LocalRun) -> Path:
    """Let `run` have at home what it began with, so that nothing of it is fetched again. Done already is success.

    Its files are hard links where the disk knows them: a checkpoint at home is never written to.
    """
    final = run.checkpoints / checkpoint.name
    if final.exists():
        return final
    building = run.incoming / f"{checkpoint.name}.adopted"
    try:
        shutil.rmtree(building, ignore_errors=True)
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        run.incoming.mkdir(parents=True, exist_ok=True)
        shutil.copytree(checkpoint, building, copy_function=_link)
        if not run.metrics.exists():
            _write(run.metrics, metrics_up_to(LocalRun(checkpoint.parent.parent).metrics, _read_here(checkpoint).step))
        building.rename(final)
        manifest.fsync(run.checkpoints)
    except OSError as error:
        raise LocalFault(
            f"`{checkpoint.name}` could not be put into {run.root}",
            why=error.strerror or str(error),
            hint="mend that and run the same command again; nothing is lost",
        ) from error
    return final


def metrics_up_to(path: Path, step: int) -> str:
    """The rows of a metrics.jsonl up to `step`; "" where there are none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "".join(line + "\n" for at, line in _rows(text) if at <= step)


def _rows(text: str) -> Iterator[tuple[int, str]]:
    for line in text.splitlines():
        try:
            yield int(json.loads(line)["step"]), line
        except (ValueError, KeyError, TypeError):
            continue  # a last line that was cut off in the middle


def _read_here(checkpoint: Path) -> manifest.Manifest:
    try:
        return manifest.verify(checkpoint)
    except BrokenCheckpoint as error:
        raise NotVerified(f"`{checkpoint}` is damaged", why=str(error), hint="go on from the one before it") from error


def _push(
    transport: Transport,
    checkpoint: Path,
    whole: manifest.Manifest,
    arriving: PurePosixPath,
    progress: Progress,
    clock: Clock,
) -> None:
    names, backoff = [*whole.files, manifest.FILE_NAME], Backoff()
    with progress(f"{checkpoint.name} to {transport.host.name}", whole.total_bytes) as update:
        for tries_left in reversed(range(TRIES)):
            try:
                transport.push([f"./{name}" for name in names], checkpoint, arriving, on_progress=update)
                return
            except Unreachable:
                if not tries_left:
                    raise
                clock.sleep(backoff.after_failure())


def _arrived_whole(transport: Transport, arriving: PurePosixPath, *, is_last: bool) -> bool:
    result = transport.run(verify_checkpoint(arriving), timeout_seconds=VERIFY_SECONDS)
    if result.exit_code != 0 and is_last:
        raise HostUnfit(
            f"`{arriving.name}` did not arrive whole on `{transport.host.name}`, twice",
            why=result.stderr.strip()[-300:] or f"verification ended with code {result.exit_code}",
            hint="take another machine; the copy at home is whole",
        )
    return result.exit_code == 0


def _send_metrics(transport: Transport, run: LocalRun, step: int, remote_root: PurePosixPath) -> None:
    text = metrics_up_to(run.metrics, step)
    if not text:
        return
    with tempfile.TemporaryDirectory(prefix="gptops-") as folder:
        (Path(folder) / run.metrics.name).write_text(text, encoding="utf-8")
        transport.push([run.metrics.name], Path(folder), remote_root)


def _do(transport: Transport, command: Command) -> None:
    result = transport.run(command)
    if result.exit_code != 0:
        name = transport.host.name
        why = result.stderr.strip() or f"`{command.argv[0]}` ended with {result.exit_code}"
        raise HostUnfit(f"could not restore on `{name}`", why=why, hint=f"gptops ssh {name} -- df -h .")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".writing")
    fresh.write_text(text, encoding="utf-8")
    manifest.fsync(fresh)
    os.replace(fresh, path)
