"""The trackers that Accelerate has a client for: aim, clearml, comet_ml, dvclive, mlflow, swanlab, trackio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.trackers.base import TrackedRun


class ByAccelerate:
    """One of Accelerate's trackers. Those whose service finds a run by an id of ours are given it."""

    def __init__(self, name: str, run: TrackedRun) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # late: only who asks for one pays

        client = LOGGER_TYPE_TO_CLASS[name]
        folder = [str(run.folder / name)] if client.requires_logging_directory else []
        self._tracker: Any = client(run.project, *folder, **_options(name, run))
        self._tracker.start()
        self._tracker.store_init_configuration(dict(_leaves(run.config)))

    def log(self, step: int, row: Mapping[str, float | str]) -> None:
        self._tracker.log(dict(row), step=step)

    def close(self) -> None:
        self._tracker.finish()


def _options(name: str, run: TrackedRun) -> dict[str, Any]:
    options: dict[str, dict[str, Any]] = {
        "trackio": {"name": run.id, "resume": "allow"},
        "swanlab": {"id": run.id, "experiment_name": run.name, "resume": "allow"},
        "comet_ml": {"experiment_key": run.id},
        "mlflow": {"run_name": run.name},
        "dvclive": {"dir": str(run.folder / name), "resume": run.step > 0, "save_dvc_exp": False},
    }
    return options.get(name, {})


def _leaves(value: Any, at: str = "") -> list[tuple[str, Any]]:
    """`model.d_model` and so on: most services take flat settings only."""
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{at}.{key}" if at else str(key))]
    return [(at, value if isinstance(value, (bool, int, float, str)) else str(value))]
