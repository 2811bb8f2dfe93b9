"""Event files for TensorBoard, in the run's `tensorboard/`: `tensorboard --logdir RUN`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from trainer.trackers.base import TrackedRun


class TensorBoard:
    """Scalars, and the configuration as a text."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter  # late: brings tensorboard and protobuf

        # A resumed run purges what came after its checkpoint: TensorBoard shows one curve.
        self._writer = SummaryWriter(
            log_dir=str(run.folder / "tensorboard"), purge_step=run.step + 1 if run.step else None
        )
        if not run.step:
            text = json.dumps(run.config, indent=1)
            self._writer.add_text("config", f"```\n{text}\n```")

    def log(self, step: int, row: Mapping[str, float | str]) -> None:
        for name, value in row.items():
            if isinstance(value, str):
                self._writer.add_text(name, value, step)
            else:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
