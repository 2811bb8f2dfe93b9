"""Which checkpoints a folder keeps, and whether the disk has room for more. It reads no file of a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer import manifest
from trainer.console import size_text
from trainer.errors import CheckpointError
from trainer.quoting import pasteable, shown

MARGIN_BYTES = 16 * 2**20
"""For what is beside the tensors: tokenizer, state, and the file system's own."""


def rotate(folder: Path, *, keep_last: int, keep_step: int | None, keep_every_steps: int = 0) -> list[Path]:
    """Remove all but the newest `keep_last`, the one of `keep_step`, and the multiples of `keep_every_steps` (where
    it is not 0). Returns what went."""
    gone = []
    for checkpoint in manifest.published(folder)[:-keep_last]:
        step = manifest.step_of(checkpoint.name) or 0
        if step != keep_step and not (keep_every_steps and step % keep_every_steps == 0):
            manifest.remove(checkpoint)
            gone.append(checkpoint)
    return gone


def sweep(folder: Path) -> None:
    """Remove what a killed training left half built or half removed."""
    for path in folder.glob("step_*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def require_room(folder: Path, checkpoint_bytes: int) -> None:
    """Refuse to begin where not even two checkpoints fit, those already there included. Raises CheckpointError."""
    files = [file for path in manifest.published(folder) for file in path.rglob("*") if file.is_file()]
    there = sum(file.stat().st_size for file in files)
    require_space(folder, 2 * checkpoint_bytes + MARGIN_BYTES - there, of="two checkpoints")


def require_space(folder: Path, wanted_bytes: int, *, of: str = "a checkpoint") -> None:
    """Refuse to write where so much is not free. Raises CheckpointError."""
    free = shutil.disk_usage(folder).free
    if free < wanted_bytes:
        raise CheckpointError(
            f"the disk of {shown(folder)} has no room for {of}",
            why=f"{size_text(wanted_bytes)} are needed, {size_text(free)} are free",
            hint=f"df -h {pasteable(folder)}; make room, or keep fewer: `checkpoint.keep_last=2`",
        )
