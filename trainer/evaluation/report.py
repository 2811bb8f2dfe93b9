"""What an evaluation found, as a page to read and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainer.evaluation.hellaswag import Accuracy
from trainer.evaluation.texts import TextLoss


class Figures(Protocol):
    """What a stage finds on all it holds back (trainer.loop.measuring)."""

    @property
    def stage(self) -> str: ...
    @property
    def data(self) -> str: ...
    @property
    def loss(self) -> float: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Report:
    """Of one model; what was not measured is None or empty."""

    model: str
    stage: Figures | None = None
    texts: Mapping[str, TextLoss] = field(default_factory=dict)
    """By what was measured: a path, or `sample`."""
    hellaswag: Sequence[Accuracy] = ()
    tasks: dict[str, dict[str, float]] | None = None
    """lm-eval's own figures, task by task."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        found: dict[str, Any] = {"model": self.model}
        if self.stage is not None:
            found["stage"] = {"name": self.stage.stage, "data": self.stage.data, "loss": self.stage.loss}
            found["stage"] |= self.stage.metrics
        if self.texts:
            found["texts"] = [{"data": data, **_figures(text)} for data, text in self.texts.items()]
        if self.hellaswag:
            found["hellaswag"] = {
                each.style: {
                    "acc": each.acc,
                    "acc_norm": each.acc_norm,
                    "acc_norm_stderr": each.standard_error,
                    "rows": each.rows,
                }
                for each in self.hellaswag
            }
        if self.tasks is not None:
            found["tasks"] = self.tasks
        return found

    def lines(self) -> list[str]:
        """For people."""
        return [self.model, *self._stage_lines(), *self._text_lines(), *self._hellaswag_lines(), *self._task_lines()]

    def _stage_lines(self) -> list[str]:
        if self.stage is None:
            return []
        figures = {"loss": self.stage.loss, **self.stage.metrics}
        found = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        return [f"{self.stage.stage:<11} held back of {self.stage.data}:", f"            {found}"]

    def _text_lines(self) -> list[str]:
        lines = []
        for data, text in self.texts.items():
            figures = f"loss {text.loss:.4f}  perplexity {text.perplexity:.2f}  bits per byte {text.bits_per_byte:.4f}"
            lines += [
                f"text        {data}: {text.num_tokens:,} tokens, {text.num_bytes:,} bytes",
                f"            {figures}",
            ]
        return lines

    def _hellaswag_lines(self) -> list[str]:
        return [
            f"hellaswag   {each.style:<10}  acc {each.acc:.4f}  acc_norm {each.acc_norm:.4f} "
            f"± {each.standard_error:.4f}  ({each.rows} rows)"
            for each in self.hellaswag
        ]

    def _task_lines(self) -> list[str]:
        return [
            f"{task:<11} " + "  ".join(f"{name} {value:.4f}" for name, value in sorted(figures.items()))
            for task, figures in (self.tasks or {}).items()
        ]


def _figures(text: TextLoss) -> dict[str, float]:
    return {
        "loss": text.loss,
        "perplexity": text.perplexity,
        "bits_per_byte": text.bits_per_byte,
        "tokens": text.num_tokens,
        "bytes": text.num_bytes,
    }
