"""jobs.yaml from disk to JobSpecs, with every complaint pointing at the place that was written.

    text ── parse ──▶ defaults, jobs, hosts ── overlay ──▶ one mapping a job ── JobSpec
                                                            └─ train ── resolve_train ──▶ RunConfig

`defaults` lie under each job, key by key; a list replaces a list. A problem that
came from `defaults` is reported there, once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.errors import JobsError, NotFound
from launcher.spec.chain import earlier_job, with_shape_of
from launcher.spec.groups import Groups, group_problems, job_problems, read_groups
from launcher.spec.jobs import HostSpec, JobSpec
from trainer.config import ConfigError, Problem, RunConfig, did_you_mean, load_yaml, run_config, validated
from trainer.sizing import grad_accum_steps

_SECTIONS = ("defaults", "jobs", "hosts", "groups")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Jobs:
    """A jobs.yaml that holds together. Training configurations are resolved one by one, by `resolve_train`."""

    path: Path
    jobs: dict[str, JobSpec]
    hosts: dict[str, HostSpec] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)
    """As it was written, to say where a value stands."""
    groups: Groups = field(default_factory=dict)
    """Machines that may train together, by the names of hosts."""

    def job(self, name: str) -> JobSpec:
        """The job of that name. Raises NotFound with the nearest one."""
        if name not in self.jobs:
            meant = did_you_mean(name, self.jobs) or f"; it has: {', '.join(self.jobs)}"
            raise NotFound(f"{shown(self.path)} has no job `{name}`{meant}", hint="gptops check")
        return self.jobs[name]


def load_jobs(path: Path) -> Jobs:
    """Everything in the file, checked. Raises JobsError with every problem at once."""
    try:
        return _jobs(path)
    except ConfigError as error:
        raise JobsError(error.what, why=error.why, hint=error.hint or _fix(path)) from error


def resolve_train(job: JobSpec, job_name: str, jobs: Jobs, overrides: Iterable[str] = ()) -> RunConfig:
    """The training configuration of a job, with `key=value` laid over it. Raises JobsError.

    A problem names the file it stands in: jobs.yaml with its path there, or the file that `train` names. The batch
    must also divide over the job's processes, which the host would find out only when they have started.
    """
    return _resolved(job, job_name, jobs, tuple(overrides), ())


def _resolved(
    job: JobSpec, job_name: str, jobs: Jobs, overrides: tuple[str, ...], asking: tuple[str, ...]
) -> RunConfig:
    """`asking`: the jobs that begin from this one, each from the one before it."""
    at = f"jobs.{job_name}.train"
    try:
        if not isinstance(job.train, str):
            train = _chained(job.train, job_name, jobs, overrides, asking)
            config = run_config(train, source=shown(jobs.path), at=at, overrides=overrides)
            return _dealt_out(config, job, shown(jobs.path), at)
        source = jobs.path.parent / job.train
        if not source.is_file():
            raise ConfigError([Problem(shown(jobs.path), at, f"there is no file `{job.train}` beside it")])
        train = _chained(load_yaml(Path(shown(source))), job_name, jobs, overrides, asking)
        config = run_config(train, source=shown(source), overrides=overrides)
        return _dealt_out(config, job, shown(source), "")
    except ConfigError as error:
        problems = _placed(error.problems, jobs.raw)
        raise JobsError(ConfigError(problems).what, hint=error.hint or "gptops schema --markdown") from error


def _chained(train: Any, job_name: str, jobs: Jobs, overrides: tuple[str, ...], asking: tuple[str, ...]) -> Any:
    """The training configuration, with the shape of the job that it begins from."""
    earlier = earlier_job(train, overrides)
    if earlier is None:
        return train
    at = f"jobs.{job_name}.train.model.init_from"
    if earlier == job_name or earlier in asking:
        circle = " begins from ".join(f"`{name}`" for name in (*asking, job_name, earlier))
        raise ConfigError([Problem(shown(jobs.path), at, f"a circle: {circle}")])
    if earlier not in jobs.jobs:
        meant = did_you_mean(earlier, jobs.jobs) or f"; there are: {', '.join(jobs.jobs)}"
        raise ConfigError([Problem(shown(jobs.path), at, f"there is no job `{earlier}`{meant}")])
    return with_shape_of(train, _resolved(jobs.jobs[earlier], earlier, jobs, (), (*asking, job_name)))


def _dealt_out(config: RunConfig, job: JobSpec, source: str, at: str) -> RunConfig:
    """`config`, if its batch divides evenly over the processes of the job."""
    processes = job.processes_per_node * job.resources.nodes
    try:
        grad_accum_steps(config.train.global_batch_size, config.train.micro_batch_size, processes)
    except ConfigError as error:
        problems = [Problem(source, f"{at}.{each.path}".lstrip("."), each.message) for each in error.problems]
        raise ConfigError(problems, hint=error.hint) from error
    return config


def shown(path: Path) -> str:
    """A path as a person would type it here."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _jobs(path: Path) -> Jobs:
    source = shown(path)
    raw = load_yaml(Path(source))
    problems = list(_section_problems(raw, source))
    if problems:
        raise ConfigError(problems)
    hosts, host_problems = _each(HostSpec, raw.get("hosts") or {}, "hosts", source)
    overlaid = {name: _overlay(raw.get("defaults") or {}, job or {}) for name, job in raw["jobs"].items()}
    jobs, spec_problems = _each(JobSpec, overlaid, "jobs", source)
    groups = read_groups(raw)
    problems = [
        *host_problems,
        *group_problems(raw, source),
        *spec_problems,
        *_train_conflicts(raw, source),
        *job_problems(jobs, hosts, groups, source),
    ]
    if problems:
        raise ConfigError(_placed(problems, raw))
    return Jobs(path, jobs, hosts, raw, groups)


def _section_problems(raw: Any, source: str) -> Iterator[Problem]:
    """What is wrong with the frame: top-level keys, and names."""
    if not isinstance(raw, Mapping):
        seen = "empty" if raw is None else f"`{raw!s:.60}`"
        yield Problem(source, "", f"must have the keys {', '.join(_SECTIONS)}, but is {seen}")
        return
    for key in raw:
        if key not in _SECTIONS:
            meant = did_you_mean(str(key), _SECTIONS) or f"; known here: {', '.join(_SECTIONS)}"
            yield Problem(source, str(key), f"unknown key{meant}")
    if not raw.get("jobs"):
        yield Problem(source, "jobs", "is required: at least one job by name")
    for section in _SECTIONS:
        value = raw.get(section)
        if value is not None and not isinstance(value, Mapping):
            yield Problem(source, section, f"`{value!s:.60}` is not a mapping of keys to values")
        elif section not in ("defaults", "groups"):
            yield from _entry_problems(section, value or {}, source)


def _entry_problems(section: str, entries: Mapping[Any, Any], source: str) -> Iterator[Problem]:
    for name, entry in entries.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            what = "may hold letters, digits, - and _, at most 40, and be quoted where it is a number"
            yield Problem(source, section, f"the name `{name}` {what}")
        elif entry is not None and not isinstance(entry, Mapping):
            yield Problem(source, f"{section}.{name}", f"`{entry!s:.60}` is not a mapping of keys to values")


def _each(model: Any, entries: Mapping[str, Any], at: str, source: str) -> tuple[dict[str, Any], list[Problem]]:
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, entry in entries.items():
        try:
            found[name] = validated(model, entry, source=source, at=f"{at}.{name}")
        except ConfigError as error:
            problems += error.problems
    return found, problems


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, mapping by mapping."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            value = _overlay(under, value)
        result[key] = value
    return result


def _train_conflicts(raw: Mapping[str, Any], source: str) -> Iterator[Problem]:
    default = (raw.get("defaults") or {}).get("train")
    for name, job in raw["jobs"].items():
        own = (job or {}).get("train")
        for file, keys, says in ((own, default, "a file"), (default, own, "keys")):
            if isinstance(file, str) and isinstance(keys, Mapping):
                others = "keys" if says == "a file" else "a file"
                message = f"is {says} while defaults.train is {others}; a job takes one of them"
                yield Problem(source, f"jobs.{name}.train", message)


def _placed(problems: Iterable[Problem], raw: Mapping[str, Any]) -> list[Problem]:
    """Each problem at the place that was written, in `defaults` where it came from there, and only once."""
    placed = [Problem(each.source, _written(raw, each.path), each.message) for each in problems]
    return list(dict.fromkeys(placed))


def _written(raw: Mapping[str, Any], path: str) -> str:
    """`defaults.x` for `jobs.demo.x` where the job itself does not say x."""
    parts = path.split(".")
    if len(parts) < 3 or parts[0] != "jobs" or _stands(raw, parts) or not _stands(raw, ["defaults", *parts[2:]]):
        return path
    return ".".join(["defaults", *parts[2:]])


def _stands(raw: Any, parts: Iterable[str]) -> bool:
    for part in parts:
        if isinstance(raw, (list, tuple)) and part.isdigit() and int(part) < len(raw):
            raw = raw[int(part)]
        elif isinstance(raw, Mapping) and part in raw:
            raw = raw[part]
        else:
            return False
    return True


def _fix(path: Path) -> str:
    return "gptops init" if not path.exists() else "gptops schema --markdown"
