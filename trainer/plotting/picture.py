"""The panels as a picture, or as a page that needs no other file and no network. matplotlib draws both."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.plotting.curves import Curve, RunCurves
from trainer.plotting.panels import Panel, panels_of
from trainer.quoting import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MANY = 200
"""Points from which on a curve is drawn faint, with its running mean on top."""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
svg {{ width: 100%; height: auto; }} table {{ border-collapse: collapse; }}
td, th {{ padding: .2rem 1rem .2rem 0; text-align: right; }} td:first-child, th:first-child {{ text-align: left; }}
</style></head><body><h1>{title}</h1>
{table}
{picture}
</body></html>
"""


def write_picture(runs: Sequence[RunCurves], path: Path) -> None:
    """The panels of all runs, one above the other, as the ending says: .png, .svg, .pdf or .html. Raises DataError."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf", "html"):
        raise DataError(f"cannot draw {shown(path)}", why="its name must end in .png, .html, .svg or .pdf")
    figure = _figure(runs)
    content = io.BytesIO()
    figure.savefig(content, format="svg" if kind == "html" else kind, dpi=150)
    data = content.getvalue()
    if kind == "html":
        svg = data.decode("utf-8")
        data = _page(runs, svg[svg.index("<svg") :]).encode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise DataError(f"cannot write {shown(path)}", why=error.strerror or str(error)) from error


def _figure(runs: Sequence[RunCurves]) -> Figure:
    try:
        # Late: optional, and slow. The object alone, not pyplot: no display, and nothing kept for the whole process.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(
            "pictures need matplotlib, which is not installed here",
            hint="pip install 'gptops[plot]'; without --out, the curves are drawn in the terminal",
        ) from error
    panels = panels_of(runs)
    figure = Figure(figsize=(9, 1.2 + 2.6 * len(panels)), layout="constrained")
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, number + 1)
        _draw(axes, panel, runs)
        if number == len(panels) - 1:
            axes.set_xlabel("step")
    return figure


def _draw(axes: Axes, panel: Panel, runs: Sequence[RunCurves]) -> None:
    for number, run in enumerate(runs):
        for name, curve in ((name, run.curve(name)) for name in panel.quantities):
            if curve:
                is_main = name == panel.quantities[0]
                label = run.name if is_main else f"{run.name}, {name.replace('_', ' ')}"
                if is_main:
                    _line(axes, curve, f"C{number}", label, is_noisy=panel.is_noisy)
                else:
                    axes.plot(
                        curve.steps, curve.values, "o--", color=f"C{number}", markersize=3.5, linewidth=1, label=label
                    )
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.title == "loss":
        axes.legend(frameon=False, fontsize=8)


def _line(axes: Axes, curve: Curve, colour: str, label: str, *, is_noisy: bool) -> None:
    if not is_noisy or len(curve.steps) < _MANY:
        axes.plot(curve.steps, curve.values, color=colour, linewidth=1.5, label=label)
    else:
        axes.plot(curve.steps, curve.values, color=colour, linewidth=0.6, alpha=0.3)
        axes.plot(curve.steps, running_mean(curve.values, len(curve.steps) // 50), color=colour, label=label)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Each value's mean with those at most `window` before it: it never looks ahead."""
    means, total = [], 0.0
    for at, value in enumerate(values):
        total += value - (values[at - window - 1] if at > window else 0.0)
        means.append(total / min(at + 1, window + 1))
    return means


def _page(runs: Sequence[RunCurves], picture: str) -> str:
    names = [name for panel in panels_of(runs) for name in panel.quantities]
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    rows = [f"<tr><th>run</th><th>step</th>{head}</tr>"]
    for run in runs:
        last = max(curve.steps[-1] for curve in run.curves.values())
        cells = "".join(f"<td>{run.curve(n).values[-1]:.6g}</td>" if run.curve(n) else "<td></td>" for n in names)
        rows.append(f"<tr><td>{html.escape(run.name)}</td><td>{last:,}</td>{cells}</tr>")
    title = html.escape(", ".join(run.name for run in runs))
    return _PAGE.format(title=title, table=f"<table>{''.join(rows)}</table>", picture=picture)
