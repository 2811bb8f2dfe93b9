"""What each node is, by its own word, and what keeps unequal ones from training together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from launcher.clock import Clock
from launcher.commands import nodes as commands
from launcher.errors import HostUnfit
from launcher.remote.transport import Command, Transport

MOST_SKEW_SECONDS = 60.0
"""Between two nodes' clocks. Nothing in the training reads them, but logs, metrics and deadlines are told by them, and
a clock that is minutes off is a machine that nobody looks after."""


@dataclass(frozen=True)
class NodeFacts:
    """One node."""

    gpus: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    python: str = ""
    torch: str = ""
    skew_seconds: float = 0.0
    """How far its clock is ahead of this computer's."""


def ask(transport: Transport, command: Command, *, timeout_seconds: float = 120.0) -> Mapping[str, Any]:
    """The answer of templates/node.py. Raises HostUnfit where it has none; what it complains of is {"error": why}."""
    result = transport.run(command, timeout_seconds=timeout_seconds)
    try:
        answer = json.loads(result.stdout.strip().splitlines()[-1])
        if isinstance(answer, dict):
            return answer
    except (ValueError, IndexError):
        pass  # a machine may say anything; what it said on stderr is the reason below
    said = (result.stderr.strip().splitlines() or [f"exit code {result.exit_code}"])[-1]
    name = transport.host.name
    raise HostUnfit(f"`{name}` cannot tell what it is", why=said[:300], hint=f"gptops ssh {name} -- python3 --version")


def facts_of(transport: Transport, venv: PurePosixPath | str, clock: Clock) -> NodeFacts:
    """Asked once. The clock is compared at the middle of the question: an error of a slow link is within a second."""
    asked_at = clock.now()
    answer = ask(transport, commands.facts(venv))
    return facts_in(answer, (asked_at + clock.now()) / 2)


def facts_in(answer: Mapping[str, Any], asked_at: float) -> NodeFacts:
    """What a node told of itself when it was `asked_at` here."""
    gpus = [(str(row[0]), str(row[-1])) for row in answer.get("gpus", ()) if row]
    versions = answer.get("versions", {})
    return NodeFacts(
        tuple(name for name, _ in gpus),
        tuple(driver for _, driver in gpus),
        str(versions.get("python", "")),
        str(versions.get("torch", "")),
        float(answer.get("now", asked_at)) - asked_at,
    )


def differences(names: Sequence[str], facts: Sequence[NodeFacts]) -> list[str]:
    """What is not the same on all nodes, each with who has what."""
    sides = {
        "GPUs": [_counted(each.gpus) for each in facts],
        "driver": [_counted(each.drivers, number=False) for each in facts],
        "python": [each.python or "none" for each in facts],
        "torch": [each.torch or "none" for each in facts],
    }
    found = [f"{what}: {_who_has(names, values)}" for what, values in sides.items() if len(set(values)) > 1]
    skews = [each.skew_seconds for each in facts]
    if max(skews) - min(skews) > MOST_SKEW_SECONDS:
        ahead, behind = names[skews.index(max(skews))], names[skews.index(min(skews))]
        found.append(f"clock: `{ahead}` is {max(skews) - min(skews):.0f} s ahead of `{behind}`")
    return found


def require_alike(names: Sequence[str], facts: Sequence[NodeFacts]) -> None:
    """Raises HostUnfit naming every difference: the slowest node sets the pace, and the odd one breaks the training."""
    found = differences(names, facts)
    if found:
        clock = all(line.startswith("clock") for line in found)
        raise HostUnfit(
            "the nodes are not alike",
            why="; ".join(found),
            hint="timedatectl set-ntp true, on the one that is wrong" if clock else "make them alike, or leave one out",
        )


def _counted(values: Sequence[str], *, number: bool = True) -> str:
    if not values:
        return "none"
    return ", ".join(f"{values.count(value)} x {value}" if number else value for value in dict.fromkeys(values))


def _who_has(names: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"`{name}` has {value}" for name, value in zip(names, values, strict=True))
