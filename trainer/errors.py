"""Everything a user, a file or a machine can do wrong here, as one family of errors.

    TrainerError
    ├── ConfigError          (trainer.config) the configuration says something impossible
    ├── DataError            a corpus, a tokenizer or a shard cannot be used
    ├── CheckpointError      no usable checkpoint, or one that does not fit this run
    ├── EngineError          this machine cannot run what was asked
    └── PeerLost             another node or process of this training is gone

Each says what happened, why, and what to type next, as fields, so that the
command line can lay them out and a test can read each. Anything else that
escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What `python -m trainer` answers to the shell; documented in docs/exit-codes.md."""

    OK = 0
    BUG = 1
    CONFIG = 2
    DATA = 3
    CHECKPOINT = 4
    ENGINE = 5
    STOPPED = 75
    """Told to stop (SIGTERM), saved a checkpoint and ended: start it again and it goes on."""
    PEER_LOST = 76
    """Another node or process is gone, nothing is wrong here: start all again, and it goes on from the newest
    checkpoint."""


class TrainerError(Exception):
    """What happened, why, and what to do next. One line each, lower case, no full stop."""

    exit_code = ExitCode.BUG
    on_every_rank = False
    """Raised by all processes of a run alike, so that one of them is enough to tell."""
    told = False
    """Shown already."""

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        rows = [("error", self.what), ("why", self.why), ("hint", self.hint)]
        return "\n".join(f"{name + ':':<7}{text}" for name, text in rows if text)


class DataError(TrainerError):
    """A corpus, a tokenizer or a shard cannot be used as it is."""

    exit_code = ExitCode.DATA


class CheckpointError(TrainerError):
    """There is no usable checkpoint, or the one there is does not fit this run."""

    exit_code = ExitCode.CHECKPOINT


class EngineError(TrainerError):
    """This machine, or the way it was started, cannot run what was asked."""

    exit_code = ExitCode.ENGINE


class PeerLost(TrainerError):
    """Another node or process of this training is gone; this one could go on and may not alone."""

    exit_code = ExitCode.PEER_LOST
