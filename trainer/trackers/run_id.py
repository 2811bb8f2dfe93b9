"""The id under which trackers know a run: made once, kept in its folder and in every checkpoint."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from trainer.errors import EngineError
from trainer.quoting import shown

FILE_NAME = "run_id"


def run_id(out_dir: Path, of_checkpoint: str = "") -> str:
    """The checkpoint's id, else the folder's, else a new one; 32 hexadecimal digits. The folder has it afterwards.

    A checkpoint may have come from another machine, and a run may have been killed before its first checkpoint.
    """
    path = out_dir / FILE_NAME
    try:
        known = of_checkpoint or (path.read_text(encoding="utf-8").strip() if path.exists() else "") or uuid.uuid4().hex
        building = path.with_name(FILE_NAME + ".tmp")
        building.write_text(known + "\n", encoding="utf-8")
        os.replace(building, path)
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"cannot use {shown(path)}", why=getattr(error, "strerror", None) or str(error)) from error
    return known
