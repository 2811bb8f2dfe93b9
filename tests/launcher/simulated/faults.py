"""A schedule of faults, drawn from a seed: what goes wrong, and when, by the world's clock or the count of calls."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    kind: str
    at: float
    """Seconds after the beginning."""
    lasts: float = 0.0

    def __str__(self) -> str:
        return f"{self.at:7.0f} s  {self.kind}" + (f" for {self.lasts:.0f} s" if self.lasts else "")


MACHINE = ("preempted", "vanished", "stopped", "moved", "rebooted", "killed-by-oom-killer", "run-removed")
NETWORK = ("ssh-down", "api-down", "api-limits", "all-down", "ssh-refused")
DISK = ("home-full", "host-full")
PROCESS = ("laptop-sleeps", "gptops-killed", "gptops-killed", "gptops-killed")
TRANSFER = ("cut-pull", "corrupt-pull", "cut-push", "corrupt-push", "lost-answer")
MARKET = ("create-lost", "create-refused", "create-half", "offer-gone", "destroy-lost", "destroy-slow", "unfit", "dead")
TRAINER = ("crash", "crash", "crash-always", "out-of-memory", "bad-config", "corrupt-checkpoint")
LASTING = {
    "ssh-down": 1500,
    "api-down": 1200,
    "api-limits": 300,
    "all-down": 7200,
    "home-full": 5000,
    "host-full": 3000,
}
LASTING |= {"laptop-sleeps": 20000, "ssh-refused": 1200}


@dataclass(frozen=True)
class Schedule:
    """Everything about one simulated errand that chance decides."""

    seed: int
    faults: tuple[Fault, ...]
    max_usd: float | None
    max_steps: int
    jobs: int
    kills: frozenset[int] = field(default_factory=frozenset)
    """Calls to the outside at which gptops dies: even ones before the call, odd ones after it."""

    def __str__(self) -> str:
        head = f"seed {self.seed}: {self.jobs} job(s) of {self.max_steps} steps, budget {self.max_usd}"
        return "\n".join([head, *map(str, self.faults), f"killed at calls {sorted(self.kills)}"])


def drawn(seed: int) -> Schedule:
    """The schedule of a seed; the same for ever."""
    chance = random.Random(seed)
    kinds = (*MACHINE, *NETWORK, *DISK, *PROCESS, *TRANSFER, *MARKET, *TRAINER)
    jobs, max_steps = chance.choice((1, 1, 1, 2)), chance.choice((6, 10, 20))
    faults = []
    for _ in range(chance.choice((0, 1, 2, 3, 4, 6, 8, 12))):
        kind = chance.choice(kinds)
        lasts = chance.uniform(30, LASTING[kind]) if kind in LASTING else 0.0
        faults.append(Fault(kind, chance.uniform(0, 300 + jobs * max_steps * 150), lasts))
    kills = frozenset(chance.randrange(1, 200 * jobs) for _ in range(chance.choice((0, 0, 1, 2, 4))))
    return Schedule(
        seed=seed,
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        max_usd=chance.choice((None, None, None, 3.0, 8.0)),
        max_steps=max_steps,
        jobs=jobs,
        kills=kills,
    )
