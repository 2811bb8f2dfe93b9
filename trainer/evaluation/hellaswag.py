"""HellaSwag (Zellers et al. 2019): which of four endings follows, in the two ways people score it.

- `completion`: the context as it stands, each ending after a space; `acc` takes the likeliest ending, `acc_norm` the
  one with the likeliest tokens on average. This is what nanoGPT's descendants report (GPT-2 124M: 29.55).
- `harness`: the text cleaned and the activity named first, as lm-evaluation-harness does it; `acc_norm` divides by the
  characters of the ending (GPT-2 124M: 31.14).

The two differ by up to two points on the same model, so a figure without its style says little.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.errors import DataError
from trainer.evaluation.continuations import Continuation, Likelihood, likelihoods
from trainer.evaluation.models import MeasuredModel
from trainer.quoting import shown

Style = Literal["completion", "harness"]
STYLES: tuple[Style, ...] = ("completion", "harness")


@dataclass(frozen=True)
class Question:
    """One row of the data set."""

    activity: str
    context: str
    """`ctx` of the row: `ctx_a` and `ctx_b` with a space between."""
    harness_context: str
    """The same with the first letter of `ctx_b` raised, behind the activity, and cleaned."""
    endings: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Accuracy:
    """Of one style over all questions."""

    style: Style
    rows: int
    acc: float
    acc_norm: float

    @property
    def standard_error(self) -> float:
        """Of `acc_norm`; sample standard deviation over the root of the rows, as lm-eval gives it."""
        if self.rows < 2:
            return math.nan
        return math.sqrt(self.acc_norm * (1 - self.acc_norm) / (self.rows - 1))


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """The rows of a .jsonl file, the first `limit` of them. Raises DataError that names the line."""
    questions: list[Question] = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip() and (limit is None or len(questions) < limit):
                questions.append(_question(line, f"{shown(path)} line {number}"))
    except OSError as error:
        raise DataError(f"cannot read {shown(path)}", why=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(path)} is not UTF-8", why=str(error)) from error
    if not questions:
        raise DataError(f"{shown(path)} has no rows", hint="one JSON object a line with ctx, endings and label")
    return questions


def accuracy(
    model: MeasuredModel,
    questions: Sequence[Question],
    style: Style,
    *,
    said: Callable[[int], None] = lambda done: None,
) -> Accuracy:
    """How often the right ending wins. `said` hears how many endings are scored."""
    wanted = [
        continuation(model, _context(each, style), ending) for each in questions for ending in _endings(each, style)
    ]
    scores = iter(likelihoods(model, wanted, said=said))
    right = right_norm = 0
    for question in questions:
        own = [next(scores) for _ in question.endings]
        right += _best([each.logp for each in own]) == question.answer
        right_norm += _best(_normalised(own, question, style)) == question.answer
    return Accuracy(style, len(questions), right / len(questions), right_norm / len(questions))


def continuation(model: MeasuredModel, context: str, text: str) -> Continuation:
    """`text` after `context`, cut where the tokenizer cuts when it sees both; spaces between belong to `text`."""
    kept = context.rstrip()
    whole, before = model.encode(context + text), model.encode(kept)
    return Continuation(tuple(before) or (model.start_id,), tuple(whole[len(before) :]))


def _context(question: Question, style: Style) -> str:
    return question.context if style == "completion" else question.harness_context


def _endings(question: Question, style: Style) -> list[str]:
    return [" " + (ending if style == "completion" else _cleaned(ending)) for ending in question.endings]


def _normalised(own: Sequence[Likelihood], question: Question, style: Style) -> list[float]:
    if style == "completion":
        return [each.logp / max(each.num_tokens, 1) for each in own]
    return [each.logp / max(len(_cleaned(text)), 1) for each, text in zip(own, question.endings, strict=True)]


def _best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


def _question(line: str, where: str) -> Question:
    try:
        row: dict[str, Any] = json.loads(line)
        context, answer, endings = str(row["ctx"]), int(row["label"]), tuple(str(each) for each in row["endings"])
        if not 0 <= answer < len(endings):
            raise ValueError(f"label {answer} names none of {len(endings)} endings")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where} is not a row of HellaSwag",
            why=f"{type(error).__name__}: {error}",
            hint="one JSON object a line with ctx, endings and label",
        ) from error
    first, second = (row["ctx_a"], row["ctx_b"]) if "ctx_a" in row else _parts(context)
    activity = str(row.get("activity_label", ""))
    return Question(activity, context, _cleaned(f"{activity}: {first} {str(second).capitalize()}"), endings, answer)


def _parts(context: str) -> tuple[str, str]:
    """`ctx_a` and `ctx_b` of a row that has only `ctx`: a last piece that begins with a small letter is `ctx_b`."""
    found = re.match(r"(.*[.!?]) ([a-z][^.!?]*)$", context, re.DOTALL)
    return (found[1], found[2]) if found else (context, "")


def _cleaned(text: str) -> str:
    """What the harness does to WikiHow's markup."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
