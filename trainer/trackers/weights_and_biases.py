"""Weights & Biases, online or not: `WANDB_MODE=offline` keeps the run in the run's `wandb/` until `wandb sync`."""

from __future__ import annotations

import importlib
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainer.errors import EngineError
from trainer.trackers.base import TrackedRun

_WITHOUT_A_KEY = ("offline", "disabled", "dryrun")


class WeightsAndBiases:
    """One W&B run, found again by its id."""

    def __init__(self, run: TrackedRun) -> None:
        # Late, as it takes a second; by name, as type checkers need not have it.
        wandb: Any = importlib.import_module("wandb")
        try:
            self._run = wandb.init(
                id=run.id,
                name=run.name,
                project=run.project,
                dir=str(run.folder),
                config=dict(run.config),
                resume="allow",
                settings=wandb.Settings(console="off", silent=True, disable_git=True),
            )
        except wandb.Error as error:
            raise EngineError(
                "Weights & Biases did not take the run",
                why=" ".join(str(error).split())[:300],
                hint="train without a network, and `wandb sync` later: set WANDB_MODE=offline",
            ) from error

    def log(self, step: int, row: Mapping[str, float | str]) -> None:
        if step >= self._run.step:  # it has the others from before the crash, and takes none back
            self._run.log(dict(row), step=step)

    def close(self) -> None:
        self._run.finish()


def require_key(environ: Mapping[str, str]) -> None:
    """Refuse to begin a run that W&B would ask for a password in the middle of the night. Raises EngineError."""
    mode = environ.get("WANDB_MODE", "online").lower()
    if mode in _WITHOUT_A_KEY or environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return
    host = urlsplit(environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if not _has_login(host, environ):
        raise EngineError(
            "Weights & Biases has no key",
            why=f"`log.trackers` names wandb, WANDB_API_KEY is not set, and no ~/.netrc has a login for {host}",
            hint="wandb login; or keep the run on disk and `wandb sync` it later: set WANDB_MODE=offline",
        )


def _has_login(host: str, environ: Mapping[str, str]) -> bool:
    home = Path(environ.get("HOME", os.path.expanduser("~")))
    for path in (Path(environ.get("NETRC", home / ".netrc")), home / "_netrc"):
        try:
            if netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
