"""What is drawn of a run, in which order: the one list that terminal, picture and page share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.plotting.braille import drawn
from trainer.plotting.curves import RunCurves


@dataclass(frozen=True)
class Panel:
    """One frame: quantities that share a scale."""

    title: str
    quantities: tuple[str, ...]
    """Names in metrics.jsonl; the second and later ones are drawn as dots on lines."""
    is_noisy: bool = True
    """Whether a running mean shows more than the values."""


PANELS = (
    Panel("loss", ("loss", "val_loss")),
    Panel("learning rate", ("lr",), is_noisy=False),
    Panel("tokens per second", ("tokens_per_second",)),
    Panel("gradient norm", ("grad_norm",)),
)


def panels_of(runs: Sequence[RunCurves]) -> list[Panel]:
    """Those that some run has a curve for."""
    return [panel for panel in PANELS if any(run.curve(name) for run in runs for name in panel.quantities)]


def page(runs: Sequence[RunCurves], *, width: int = 72) -> str:
    """The panels of each run as text, one run after the other: a terminal has one colour."""
    return "\n".join(line for run in runs for line in _of_run(run, width))


def _of_run(run: RunCurves, width: int) -> list[str]:
    lines = [run.name]
    for panel in panels_of([run]):
        for name in panel.quantities:
            curve = run.curve(name)
            if not curve:
                continue
            title = panel.title if name == panel.quantities[0] else name.replace("_", " ")
            lines += ["", f"  {title}: {curve.values[-1]:.6g} at step {curve.steps[-1]:,}"]
            lines += drawn([curve], width=width, height=8 if name == "loss" else 5)
    return [*lines, ""]
