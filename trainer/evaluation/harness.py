"""lm-evaluation-harness's tasks on any measured model: the adapter between its requests and our likelihoods.

The package is an extra (`pip install "gptops[eval]"`). It downloads a task's data from the hub when the task is first
used. Tasks that let the model write are refused by name: only likelihoods are answered here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.errors import EngineError
from trainer.evaluation.continuations import Continuation, likelihoods
from trainer.evaluation.hellaswag import continuation
from trainer.evaluation.models import MeasuredModel


def harness_results(model: MeasuredModel, tasks: Sequence[str], limit: int | None) -> dict[str, dict[str, float]]:
    """The numeric figures of each task. Raises EngineError where the package or a task is missing."""
    lm_eval = _package()
    try:
        found = lm_eval.simple_evaluate(model=_adapter(model), tasks=list(tasks), limit=limit, bootstrap_iters=0)
    except (KeyError, ValueError, OSError, ConnectionError, NotImplementedError) as error:
        raise EngineError(
            f"lm-eval could not run {', '.join(tasks)}",
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            hint="python -m lm_eval ls tasks",
        ) from error
    return {
        task: {name.partition(",")[0]: float(v) for name, v in figures.items() if isinstance(v, (int, float))}
        for task, figures in found["results"].items()
    }


def _package() -> Any:
    try:
        import lm_eval  # late: an extra, and seconds to import

        return lm_eval
    except ImportError as error:
        raise EngineError(
            "lm-eval's tasks need the package lm-eval", why=str(error), hint="pip install 'gptops[eval]'"
        ) from error


def _adapter(model: MeasuredModel) -> Any:
    from lm_eval.api.model import LM

    class Adapter(LM):  # type: ignore[misc]  # the package has no types
        """Answers likelihoods by ours."""

        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            wanted = [continuation(model, *request.args) for request in requests]
            return [(each.logp, each.is_greedy) for each in likelihoods(model, wanted)]

        def loglikelihood_rolling(self, requests: Any) -> list[float]:
            return [_whole_text(model, request.args[0]) for request in requests]

        def generate_until(self, requests: Any) -> list[str]:
            raise NotImplementedError("the task lets the model write, which this adapter does not")

    return Adapter()


def _whole_text(model: MeasuredModel, text: str) -> float:
    """Log-probability of a whole text, in windows side by side, the first behind the start id."""
    ids = [model.start_id, *model.encode(text)]
    windows = [ids[first : first + model.max_seq_len + 1] for first in range(0, len(ids) - 1, model.max_seq_len)]
    return sum(each.logp for each in likelihoods(model, [Continuation((w[0],), tuple(w[1:])) for w in windows]))
