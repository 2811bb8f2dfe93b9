"""What is wrong with a configuration, place by place.

A problem names the file, the path inside it, the value seen, what is allowed
and the nearest right word. One error carries all of them, because a person
who fixes a file wants to fix it once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from trainer.errors import ExitCode, TrainerError


@dataclass(frozen=True)
class Problem:
    """One thing wrong at one place. `str()` gives the line a user reads."""

    source: str
    """The file, or what the user typed (`optim.lr=abc`)."""
    path: str
    """Where in it: `jobs.sft.sync.keep_remote`, or "" for the whole."""
    message: str
    """What is wrong with the value, the value itself included."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.path, self.message) if part)


class ConfigError(TrainerError):
    """A configuration that cannot be used; `problems` has each place."""

    exit_code = ExitCode.CONFIG

    def __init__(self, problems: Iterable[Problem], *, why: str = "", hint: str = "") -> None:
        self.problems = tuple(problems)
        assert self.problems, "an error without a problem"
        super().__init__("\n       ".join(str(problem) for problem in self.problems), why=why, hint=hint)


class Unfit(ValueError):
    """Raised by a validator of values that are right alone and wrong together: it also says why, and what to do."""

    def __init__(self, what: str, *, why: str, hint: str) -> None:
        super().__init__(what)
        self.why, self.hint = why, hint


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean `keep_remote`?)`, or "" where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean `{near[0]}`?)" if near else ""
