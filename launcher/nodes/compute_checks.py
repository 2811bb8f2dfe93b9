"""What the answers of a cluster's machines (templates/look.py) mean: pass, warn or fail, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launcher.hosts.preflight_checks import MIB, Check, Verdict
from launcher.nodes.facts import MOST_SKEW_SECONDS, NodeFacts, differences
from launcher.nodes.preflight import SLOW_LINK, in_common
from launcher.spec.jobs import JobSpec

Answer = Mapping[str, Any]
"""One answer; {"error": why} where there is none."""


def judged(answers: Mapping[str, Answer], job: JobSpec, exit_code: int | None, last_words: str) -> Iterator[Check]:
    """The rows that the answers make."""
    nodes = {name.removesuffix(".node"): answer for name, answer in answers.items() if name.endswith(".node")}
    for name, answer in nodes.items():
        yield node_check(name, answer, answers.get(f"{name}.torch"), job.resources.gpus)
    if len(nodes) < job.resources.nodes:
        found = f"{len(nodes)} of {job.resources.nodes} nodes have answered: {last_words}"
        yield Check("nodes", Verdict.FAIL, found, "is the home on a disk that all nodes share, with python3 on each?")
    sound = {name: answer for name, answer in nodes.items() if "error" not in answer}
    yield from _alike(list(sound), [_facts(answer) for answer in sound.values()])
    for name, answer in sorted(sound.items(), key=lambda item: item[1].get("link", {}).get("place", 0)):
        if "to" in answer.get("link", {}):
            yield link_check(name, answer["link"])
    if any(_torch(answer) for answer in sound.values()):
        yield from _all_reduce(answers, job, exit_code, last_words)


def node_check(name: str, answer: Answer, torch: Answer | None, gpus: int) -> Check:
    """One machine in one row: the first thing that is wrong with it says what to do."""
    if "error" in answer:
        return Check(name, Verdict.FAIL, str(answer["error"]), "")
    facts = _facts(answer)
    wrong = [*_wrong_gpus(facts, torch, gpus), *_wrong_disk(answer["clock"])]
    there = f"{len(facts.gpus)} x {facts.gpus[0]}, driver {facts.drivers[0]}" if facts.gpus else "no GPU"
    seen = f" sees {torch['device_count']}" if torch is not None and facts.gpus else ""
    found = f"{there}, python {facts.python or 'none'}, torch {facts.torch or 'none'}{seen}"
    if "ahead" in answer["clock"]:
        found += f", the login node's disk, clock {facts.skew_seconds:+.0f} s"
    if not wrong:
        return Check(name, Verdict.PASS, found)
    return Check(name, max((each[0] for each in wrong), key=list(Verdict).index), found, wrong[0][1])


def link_check(name: str, link: Answer) -> Check:
    """The way from one node to the one before it."""
    title, way = f"link {link['to']} {name}", link["way"]
    if "error" in way:
        return Check(title, Verdict.FAIL, str(way["error"]), "ask the cluster's staff: nodes of one job cannot meet")
    slowest = min(way["bytes_per_second"].values())
    found = f"{slowest / MIB:,.0f} MiB/s, round trip {way['round_trip'] * 1000:.2f} ms, over {link['interface'] or '?'}"
    if slowest >= SLOW_LINK:
        return Check(title, Verdict.PASS, found)
    return Check(title, Verdict.WARN, found, "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME in `env` name a faster network")


def _wrong_gpus(facts: NodeFacts, torch: Answer | None, asked: int) -> Iterator[tuple[Verdict, str]]:
    if len(facts.gpus) < asked:
        yield Verdict.FAIL, f"{asked} were asked for: sinfo -N -o '%N %G' tells what the nodes have"
    if torch is not None and torch["device_count"] < asked:
        yield (
            Verdict.FAIL,
            f"torch {torch['version']} sees {torch['device_count']} of {asked}: driver and wheel do not fit",
        )
    if not facts.torch:
        yield (
            Verdict.WARN,
            "the environment is not made yet, and no all-reduce was tried: gptops train, or gptops up --job",
        )


def _wrong_disk(clock: Answer) -> Iterator[tuple[Verdict, str]]:
    if "error" in clock:
        yield Verdict.FAIL, str(clock["error"])
    elif abs(clock["ahead"]) > MOST_SKEW_SECONDS:
        yield Verdict.FAIL, "its clock, or the login node's, is wrong: ask the cluster's staff"


def _alike(names: Sequence[str], facts: Sequence[NodeFacts]) -> Iterator[Check]:
    if len(facts) < 2:
        return
    found = differences(names, facts)
    for difference in found:
        yield Check("alike", Verdict.FAIL, difference, "take nodes of one kind: extra: [--constraint=...]")
    if not found:
        yield Check("alike", Verdict.PASS, in_common(facts))


def _all_reduce(answers: Mapping[str, Answer], job: JobSpec, exit_code: int | None, last_words: str) -> Iterator[Check]:
    name, answer = "all-reduce, all", answers.get("all.reduce")
    if answer is not None and answer.get("right"):
        speed = f"{answer['bus'] / MIB:,.0f} MiB/s bus bandwidth"
        yield Check(name, Verdict.PASS, f"{answer['backend']}, {answer['world']} processes, {speed}")
    elif answer is not None:
        yield Check(name, Verdict.FAIL, "the sum is wrong", "ask the cluster's staff")
    elif exit_code != 0:
        yield Check(name, Verdict.FAIL, f"exit code {exit_code}: {last_words}", "the nodes cannot train together")


def _facts(answer: Answer) -> NodeFacts:
    versions, clock = answer.get("versions", {}), answer.get("clock", {})
    names, drivers = [row[0] for row in answer.get("gpus", ())], [row[-1] for row in answer.get("gpus", ())]
    ahead = float(clock.get("ahead", 0.0))
    return NodeFacts(tuple(names), tuple(drivers), versions.get("python", ""), versions.get("torch", ""), ahead)


def _torch(answer: Answer) -> str:
    return str(answer.get("versions", {}).get("torch", ""))
