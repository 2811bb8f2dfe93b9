"""What a cluster wants to be told with every job: `hosts.NAME.slurm` in jobs.yaml."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, WithJsonSchema, model_validator

from trainer.config import Model, Strings

_WORD = r"^[A-Za-z0-9_][A-Za-z0-9_.,:@/+-]*$"
_TIME = re.compile(r"(?:(?P<days>\d{1,4})-)?(?P<first>\d{1,6})(?::(?P<second>\d{1,2}))?(?::(?P<third>\d{1,2}))?")
_OURS = ("--job-name", "--nodes", "--ntasks", "--signal", "--requeue", "--no-requeue", "--output", "--open-mode",
         "--array", "--chdir", "--wrap")  # fmt: skip
"""What a whole run hangs on; `-N 4` and the like are told apart by `_long`."""


def _time(value: object) -> object:
    """A number in YAML is minutes to Slurm as well."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _option(line: str) -> str:
    if not line.startswith("--") or not line.isprintable():
        raise ValueError(f"`{line}` is not an option of sbatch in one line, written out: `--constraint=h100`")
    name = re.split(r"[=\s]", line, maxsplit=1)[0]
    if any(own.startswith(name) or name.startswith(own) for own in _OURS):
        raise ValueError(f"`{name}` is set by gptops: nodes come from `resources.nodes`, the rest must be as it is")
    return line


Word = Annotated[str, Field(pattern=_WORD)]
Time = Annotated[str, BeforeValidator(_time), WithJsonSchema({"type": ["string", "integer"]})]
Options = Annotated[Strings, AfterValidator(lambda lines: tuple(_option(line) for line in lines))]


class SlurmSpec(Model):
    """What `sbatch` is told for every job on this cluster. Everything left out is the cluster's own default."""

    partition: Word | None = None
    """Which queue."""
    account: Word | None = None
    """Who is charged."""
    qos: Word | None = None
    """Quality of service."""
    time: Time | None = None
    """Longest time of one turn, as Slurm writes it: minutes, H:MM:SS or D-HH:MM:SS. Then the job requeues itself."""
    gpu_type: Word | None = None
    """The cluster's word for a GPU model, as in `--gres=gpu:TYPE:8`."""
    signal_seconds: PositiveInt = 120
    """So long before the time limit the training is told to save. A large checkpoint to a slow disk takes longer."""
    extra: Options = ()
    """Further options of sbatch, one an entry: ["--constraint=h100", "--exclusive"]."""
    shell: Strings = ()
    """Shell lines run on each node before the training: ["module load cuda"]."""

    @model_validator(mode="after")
    def _there_is_time_to_train(self) -> SlurmSpec:
        seconds = None if self.time is None else seconds_of(self.time)
        if seconds is not None and seconds <= self.signal_seconds:
            raise ValueError(f"time {self.time} leaves nothing before signal_seconds {self.signal_seconds}")
        return self


def seconds_of(time: str) -> int:
    """`D-HH:MM:SS`, `H:MM:SS`, `M:SS` or minutes, as Slurm reads it. Raises ValueError."""
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError(f"time `{time}` is none of MINUTES, MINUTES:SECONDS, H:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS")
    first, *rest = (int(match[name]) if match[name] else None for name in ("first", "second", "third"))
    assert first is not None
    given = [first, *(number for number in rest if number is not None)]
    if match["days"] is not None:
        hours, minutes, seconds = [*given, 0, 0][:3]
        return int(match["days"]) * 86400 + hours * 3600 + minutes * 60 + seconds
    if len(given) == 3:
        return given[0] * 3600 + given[1] * 60 + given[2]
    return given[0] * 60 + (given[1] if len(given) == 2 else 0)
