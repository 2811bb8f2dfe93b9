"""Services and formats that follow a run beside metrics.jsonl: TensorBoard, Weights & Biases and others.

Each is a Tracker; their packages are optional and imported when a run asks for them.
"""

from trainer.trackers.base import TrackedRun, Tracker
from trainer.trackers.by_name import require_trackers
from trainer.trackers.several import Trackers

__all__ = ["TrackedRun", "Tracker", "Trackers", "require_trackers"]
