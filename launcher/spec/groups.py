"""`groups` in jobs.yaml: machines under `hosts` that stand on one network and may train together.

groups:
  pair: [box1, box2]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.spec.jobs import HostSpec, JobSpec
from trainer.config import Problem, did_you_mean

Groups = Mapping[str, tuple[str, ...]]
"""The names of hosts, by the name of their group."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def read_groups(raw: Mapping[str, Any]) -> Groups:
    """The groups of a file; what `group_problems` complains about is left out."""
    found = raw.get("groups") or {}
    return {str(name): tuple(map(str, hosts)) for name, hosts in found.items() if isinstance(hosts, list)}


def group_problems(raw: Mapping[str, Any], source: str) -> Iterator[Problem]:
    """What is wrong with the groups themselves."""
    hosts: Mapping[str, Any] = raw.get("hosts") or {}
    for name, members in (raw.get("groups") or {}).items():
        at = f"groups.{name}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            yield Problem(source, "groups", f"the name `{name}` may hold letters, digits, - and _, at most 40")
        elif name in hosts:
            yield Problem(source, at, f"`{name}` is the name of a host too; choose another")
        elif not isinstance(members, list) or len(members) < 2:
            yield Problem(source, at, f"`{members!s:.60}` is not a list of two hosts or more")
        else:
            yield from _member_problems(members, hosts, at, source)


def _member_problems(members: list[Any], hosts: Mapping[str, Any], at: str, source: str) -> Iterator[Problem]:
    for position, member in enumerate(members):
        if member not in hosts:
            known = did_you_mean(str(member), hosts) or f"; known: {', '.join(map(str, hosts)) or 'none'}"
            yield Problem(source, f"{at}.{position}", f"`{member}` does not stand under hosts{known}")
        elif member in members[:position]:
            yield Problem(source, f"{at}.{position}", f"`{member}` stands twice; a machine is one node")


def meeting_port(jobs: Mapping[str, JobSpec], group: str) -> int | None:
    """`resources.rendezvous_port`, where all jobs of the group that name one name the same; None: any free port."""
    ports = {job.resources.rendezvous_port for job in jobs.values() if job.host == group} - {None}
    return ports.pop() if len(ports) == 1 else None


def job_problems(
    jobs: Mapping[str, JobSpec], hosts: Mapping[str, HostSpec], groups: Groups, source: str
) -> Iterator[Problem]:
    """Where a job's `host` is none, or too few machines for its nodes."""
    for name, job in jobs.items():
        at, nodes = f"jobs.{name}.host", job.resources.nodes
        if job.host is None:
            continue
        if job.host in groups:
            if not 1 < nodes <= len(groups[job.host]):
                has = f"`{job.host}` is a group of {len(groups[job.host])}, and resources.nodes is {nodes}"
                yield Problem(source, at, has)
        elif job.host not in hosts:
            known = did_you_mean(job.host, hosts) or f"; known: {', '.join(hosts) or 'none'}"
            yield Problem(source, at, f"`{job.host}` does not stand under hosts{known}")
        elif nodes > 1 and hosts[job.host].scheduler is None:
            known = ", ".join(groups) or "none"
            yield Problem(source, at, f"`{job.host}` is one machine; {nodes} nodes are a group: {known}")
