"""`test-remote` for several nodes: each by itself, side by side, and then what they are to each other."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from launcher.clock import Clock
from launcher.commands import nodes as node_commands
from launcher.commands import preflight as commands
from launcher.errors import GptopsError
from launcher.hosts.preflight import examine
from launcher.hosts.preflight_checks import MIB, Asked, Check, Verdict
from launcher.hosts.setup import setup_inputs
from launcher.nodes.facts import NodeFacts, ask, differences, facts_of
from launcher.nodes.meeting import Meeting, Place, free_port, meet, order_of, places_of
from launcher.paths import RemoteRun
from launcher.remote.together import together
from launcher.remote.transport import Transport

PROBE_BYTES = 32 << 20
REDUCE_BYTES = 16 << 20
"""Enough for a bandwidth, little enough for two processes on a CPU."""
SLOW_LINK = 100 * MIB
"""Less than a network of 1 Gbit/s brings."""


@dataclass(frozen=True)
class NodesPreflight:
    """One examination of several nodes."""

    transports: Sequence[Transport]
    insides: Sequence[str]
    """Where each is reached by the others."""
    asked: Sequence[Asked]
    code: PurePosixPath | None
    """The project's code on the nodes, where there is a project."""
    port: int | None
    clock: Clock
    scratch: Path
    say: Callable[[str], None]

    @property
    def names(self) -> list[str]:
        return [transport.host.name for transport in self.transports]

    def checks(self) -> list[Check]:
        """Every node's rows under its name, then those of all."""
        return [*self._each(), *self.between()]

    def _each(self) -> list[Check]:
        def look(node: int) -> list[Check]:
            folder = self.scratch / str(node)
            folder.mkdir()
            name = self.names[node]
            own = examine(
                self.transports[node], self.asked[node], self.clock, folder, lambda line: self.say(f"{name}: {line}")
            )
            return [replace(check, name=f"{name} {check.name}") for check in own]

        return [check for checks in together(self.names, look) for check in checks]

    def between(self) -> Iterator[Check]:
        """What the nodes are to each other."""
        yield from self._alike()
        yield from self._same_code()
        try:
            places = places_of(self.transports, self.insides)
        except GptopsError as error:
            yield Check("interface", Verdict.FAIL, f"{error.what}: {error.why}", error.hint)
            return
        order = order_of(places)
        there = [self.transports[node] for node in order]
        places = [places[node] for node in order]
        shown = (
            f"{self.names[node]} {place.address} ({place.interface})" for node, place in zip(order, places, strict=True)
        )
        yield Check("interface", Verdict.PASS, ", ".join(shown))
        yield from self._links(there, places)
        try:
            port = free_port(there[0], places[0], self.port)
            meet(there, places, port)
        except GptopsError as error:
            yield Check("rendezvous", Verdict.FAIL, f"{error.what}: {error.why}", error.hint)
            return
        yield Check("rendezvous", Verdict.PASS, f"all reach port {port} on {there[0].host.name}")
        yield self._all_reduce(there, Meeting(tuple(places), port))

    def _alike(self) -> Iterator[Check]:
        self.say("comparing the nodes")
        venv = setup_inputs().venv
        facts = together(self.names, lambda node: facts_of(self.transports[node], venv, self.clock))
        found = differences(self.names, facts)
        for difference in found:
            yield Check("alike", Verdict.FAIL, difference, "make them alike, or leave one out")
        if not found:
            yield Check("alike", Verdict.PASS, in_common(facts))

    def _same_code(self) -> Iterator[Check]:
        if self.code is None:
            return
        folder = self.code
        answers = together(self.names, lambda node: ask(self.transports[node], node_commands.code(folder)))
        if any(not answer.get("files") for answer in answers):
            yield Check("code", Verdict.PASS, "not uploaded to all yet; gptops train compares it again")
        elif len({answer["sha256"] for answer in answers}) > 1:
            todo = f"gptops ssh HOST -- rm -r {folder}   # on each; the next upload brings it anew"
            yield Check("code", Verdict.FAIL, "not the same on all nodes", todo)
        else:
            yield Check("code", Verdict.PASS, f"the same {answers[0]['files']} files on all nodes")

    def _links(self, there: Sequence[Transport], places: Sequence[Place]) -> Iterator[Check]:
        """Every pair, one after the other: at once they would share what is measured."""
        self.say("measuring the links between the nodes")
        for one in range(len(there)):
            for other in range(one + 1, len(there)):
                pair, ends = [there[one], there[other]], [places[one], places[other]]
                name = f"link {pair[0].host.name} {pair[1].host.name}"
                try:
                    [link] = meet(pair, ends, free_port(pair[0], ends[0], None), size=PROBE_BYTES)
                except GptopsError as error:
                    yield Check(name, Verdict.FAIL, f"{error.what}: {error.why}", error.hint)
                    continue
                slowest = min(link.there_bytes_per_second, link.back_bytes_per_second)
                found = f"{slowest / MIB:,.0f} MiB/s, round trip {link.round_trip_seconds * 1000:.2f} ms"
                slow = slowest < SLOW_LINK
                todo = "every step waits for the gradients: raise train.global_batch_size, or take a faster network"
                yield Check(name, Verdict.WARN if slow else Verdict.PASS, found, todo if slow else "")

    def _all_reduce(self, there: Sequence[Transport], meeting: Meeting) -> Check:
        name, folder = "all-reduce, all", RemoteRun(f"preflight-{secrets.token_hex(4)}").root
        self.say("letting all nodes add up a tensor")

        def reduce(node: int) -> object:
            transport = there[node]
            for command in commands.install(folder):
                transport.run(command)
            python = (transport.run(commands.find_python()).stdout.strip() or "python3").splitlines()[-1]
            processes = max(1, min(asked.gpus for asked in self.asked))
            command = node_commands.all_reduce(folder, python, meeting.environment(node), processes, REDUCE_BYTES)
            if node == 0:
                return ask(transport, command, timeout_seconds=node_commands.REDUCE_SECONDS + 30)
            return transport.run(command, timeout_seconds=node_commands.REDUCE_SECONDS + 30).exit_code

        try:
            answer = together([transport.host.name for transport in there], reduce)[0]
        except GptopsError as error:
            return Check(name, Verdict.FAIL, error.why or error.what, "the nodes cannot train together")
        finally:
            for transport in there:
                transport.run(commands.remove(folder))
        assert isinstance(answer, dict)
        if not answer.get("right"):
            return Check(name, Verdict.FAIL, "the sum is wrong", "take other machines")
        speed = f"{answer['bus'] / MIB:,.0f} MiB/s bus bandwidth"
        return Check(name, Verdict.PASS, f"{answer['backend']}, {answer['world']} processes, {speed}")


def in_common(facts: Sequence[NodeFacts]) -> str:
    """What nodes that are alike are, in words."""
    first = facts[0]
    gpus = f"{len(first.gpus)} x {first.gpus[0]}, driver {first.drivers[0]}" if first.gpus else "no GPU"
    return f"{len(facts)} x ({gpus}, python {first.python}, torch {first.torch or 'none'}), clocks agree"
