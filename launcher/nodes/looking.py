"""One question to each node before a start: what it is, where it is for the others, and a free port there.

The three answers of facts.py and meeting.py at once: over a slow network each question costs several round trips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from launcher.clock import Clock
from launcher.commands import nodes as commands
from launcher.nodes.facts import NodeFacts, ask, facts_in
from launcher.nodes.meeting import Place, place_in, port_in, ways
from launcher.remote.together import together
from launcher.remote.transport import Transport


@dataclass(frozen=True)
class Look:
    """One node, by its own word."""

    name: str
    facts: NodeFacts
    place: Place
    port_answer: Mapping[str, Any]

    @property
    def port(self) -> int:
        """A port there that nobody has, or the one that was wanted. Raises HostUnfit where that is taken."""
        return port_in(self.port_answer, self.name, self.place)


def look_at(
    transports: Sequence[Transport],
    insides: Sequence[str],
    venv: PurePosixPath | str,
    wanted_port: int | None,
    clock: Clock,
) -> list[Look]:
    """Ask all of them at once. Raises HostUnfit for a node that has no way to another, or several."""
    names = [transport.host.name for transport in transports]

    def look(node: int) -> Look:
        asked_at = clock.now()
        answer = ask(transports[node], commands.look(venv, wanted_port, ways(insides, node)))
        facts = facts_in(answer, (asked_at + clock.now()) / 2)
        return Look(names[node], facts, place_in(answer.get("way", {}), names[node]), answer.get("port", {}))

    return together(names, look)
