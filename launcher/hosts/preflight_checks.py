"""What a measurement of a host means: pass, warn or fail, and what to do about it. Pure.

A fail would waste money: the run cannot work there as asked. A warn is for the
user to weigh. The measuring is preflight.py's and templates/preflight.py's.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.gpu_models import is_one_of

Facts = Mapping[str, Any]
"""One answer of templates/preflight.py; `{"error": why}` where there is none."""

GIB = 1 << 30
MIB = 1 << 20
SLOW_ROUND_TRIP_SECONDS = 0.4
SLOW_TRANSFER = 2 * MIB
SLOW_WRITE = 100 * MIB
LEAST_DISK = 2 * GIB
SKEW_WARN_SECONDS = 5.0
SKEW_FAIL_SECONDS = 300.0
"""Beyond this, servers refuse signed requests and certificates look invalid."""

MIN_DRIVER = {11: (450, 80, 2), 12: (525, 60, 13), 13: (580, 65, 6)}
"""Oldest Linux driver that runs a CUDA major version (CUDA Toolkit Release Notes, "minor version compatibility")."""


class Verdict(str, enum.Enum):
    """How bad it is."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    verdict: Verdict
    found: str
    todo: str = ""
    """What to do about it; a command where there is one."""


@dataclass(frozen=True)
class Asked:
    """What the host was opened for."""

    host: str
    gpus: int = 0
    gpu_names: tuple[str, ...] = ()
    disk_gib: float = 0


@dataclass(frozen=True)
class Gpu:
    """One line of nvidia-smi."""

    name: str
    driver: str
    memory_mib: int | None


def ssh_check(connect_seconds: float, round_trip_seconds: float) -> Check:
    found = f"logged in after {connect_seconds:.2f} s, round trip {round_trip_seconds * 1000:.0f} ms"
    if round_trip_seconds > SLOW_ROUND_TRIP_SECONDS:
        return Check("ssh", Verdict.WARN, found, "a host nearer to you answers faster")
    return Check("ssh", Verdict.PASS, found)


def clock_check(skew_seconds: float, uncertainty_seconds: float) -> Check:
    ahead = "ahead of" if skew_seconds > 0 else "behind"
    off = abs(skew_seconds)
    if off <= max(uncertainty_seconds, 0.5):
        return Check("clock", Verdict.PASS, f"agrees within {max(uncertainty_seconds, off):.2f} s")
    found = f"{off:.1f} s {ahead} this machine's"
    todo = "set the clock of the host, or of this machine: timedatectl set-ntp true"
    if off > SKEW_FAIL_SECONDS:
        return Check("clock", Verdict.FAIL, found, todo)
    return Check("clock", Verdict.WARN if off > SKEW_WARN_SECONDS else Verdict.PASS, found, todo)


def transfer_check(name: str, bytes_per_second: float) -> Check:
    found = f"{bytes_per_second / MIB:.1f} MiB/s"
    if bytes_per_second < SLOW_TRANSFER:
        minutes = 1.5 * GIB / bytes_per_second / 60
        return Check(
            name, Verdict.WARN, found, f"a checkpoint of 1.5 GiB takes {minutes:.0f} minutes; take another host"
        )
    return Check(name, Verdict.PASS, found)


def python_check(facts: Facts, asked: Asked) -> Check:
    if "error" in facts:
        todo = f"gptops ssh {asked.host} -- apt-get install -y python3"
        return Check("python", Verdict.FAIL, str(facts["error"]), todo)
    return Check("python", Verdict.PASS, str(facts["python"]))


def rsync_check(rsync: str | Facts, asked: Asked) -> Check:
    if not isinstance(rsync, str):
        todo = f"gptops ssh {asked.host} -- apt-get install -y rsync"
        return Check("rsync", Verdict.FAIL, str(rsync["error"]), todo)
    return Check("rsync", Verdict.PASS, " ".join(rsync.split()[:3]))


def disk_check(disk: Facts, asked: Asked) -> Check:
    free = int(disk["free_bytes"])
    found = f"{free / GIB:.0f} GiB free"
    if free < max(LEAST_DISK, 0.9 * asked.disk_gib * GIB):
        wanted = max(LEAST_DISK / GIB, asked.disk_gib)
        return Check("disk", Verdict.FAIL, found, f"{wanted:.0f} GiB are wanted: free some, or open a host with more")
    return Check("disk", Verdict.PASS, found)


def write_check(write: Facts) -> Check:
    if "error" in write:
        return Check("disk write", Verdict.FAIL, str(write["error"]), "the run cannot save checkpoints there")
    speed = float(write["bytes_per_second"])
    found = f"{speed / MIB:.0f} MiB/s to the disk"
    if speed < SLOW_WRITE:
        return Check("disk write", Verdict.WARN, found, "every checkpoint will hold up the training; save less often")
    return Check("disk write", Verdict.PASS, found)


def parse_gpus(csv: str) -> list[Gpu]:
    """GPUs from `nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader,nounits`."""
    gpus = []
    for line in csv.splitlines():
        parts = line.rsplit(",", 2)
        if len(parts) == 3:
            name, driver, memory = (part.strip() for part in parts)
            gpus.append(Gpu(name, driver, int(memory) if memory.isdigit() else None))
    return gpus


def gpu_check(answer: Facts, asked: Asked) -> Check:
    """Count and names against what was asked."""
    if "error" in answer:
        if asked.gpus == 0 and answer["error"] == "not installed":
            return Check("gpus", Verdict.PASS, "none, none asked")
        return Check(
            "gpus", Verdict.FAIL if asked.gpus else Verdict.WARN, f"nvidia-smi: {answer['error']}", _another(asked)
        )
    gpus = parse_gpus(str(answer["csv"]))
    found = _gpus_in_words(gpus)
    if len(gpus) < asked.gpus:
        return Check("gpus", Verdict.FAIL, f"{found}; {asked.gpus} asked", _another(asked))
    wrong = [gpu.name for gpu in gpus if not is_one_of(gpu.name, asked.gpu_names)]
    if wrong:
        return Check("gpus", Verdict.FAIL, f"{found}; asked for {' or '.join(asked.gpu_names)}", _another(asked))
    if len({gpu.name for gpu in gpus}) > 1:
        return Check("gpus", Verdict.WARN, found, "the slowest sets the pace")
    return Check("gpus", Verdict.PASS, found)


def driver_check(answer: Facts, torch: Facts, asked: Asked) -> Check:
    """The driver against the CUDA that torch was built with."""
    gpus = parse_gpus(str(answer.get("csv", "")))
    cuda = torch.get("cuda")
    if not gpus:
        return Check("driver", Verdict.PASS, "no GPU, no driver needed")
    if not cuda:
        why = (
            "torch is not installed yet" if "error" in torch else f"torch {torch.get('version')} is built without CUDA"
        )
        verdict = Verdict.FAIL if asked.gpus and "error" not in torch else Verdict.WARN
        return Check("driver", verdict, f"{gpus[0].driver}; {why}", f"gptops up --name {asked.host}")
    least = MIN_DRIVER.get(int(str(cuda).split(".")[0]))
    found = f"{gpus[0].driver}, torch is built for CUDA {cuda}"
    if least is None:
        return Check("driver", Verdict.WARN, found, "this CUDA is not known here; see `torch.cuda` below")
    if _version(gpus[0].driver) < least:
        needs = ".".join(map(str, least))
        return Check("driver", Verdict.FAIL, f"{found}, which needs {needs}", _another(asked))
    return Check("driver", Verdict.PASS, found)


def torch_check(torch: Facts, answer: Facts, asked: Asked) -> Check:
    """Whether torch sees the GPUs that nvidia-smi sees."""
    if "error" in torch:
        return Check(
            "torch.cuda", Verdict.WARN, f"not checked: {torch['error']}", "run setup first: gptops up, or gptops train"
        )
    seen = int(torch["device_count"])
    there = len(parse_gpus(str(answer.get("csv", ""))))
    found = f"torch {torch['version']}: {'available' if torch['is_available'] else 'not available'}, {seen} GPUs"
    wanted = max(asked.gpus, there)
    if wanted and not torch["is_available"]:
        return Check(
            "torch.cuda", Verdict.FAIL, found, "driver and wheel do not fit; take another host or another torch"
        )
    if seen < wanted:
        return Check("torch.cuda", Verdict.FAIL, f"{found} of {wanted}", _another(asked))
    return Check("torch.cuda", Verdict.PASS, found)


def reduce_check(answer: Facts, torch: Facts) -> Check:
    if "error" in torch:
        return Check("all-reduce", Verdict.WARN, "not checked: torch is not installed", "run setup first: gptops up")
    if "error" in answer:
        return Check(
            "all-reduce", Verdict.FAIL, str(answer["error"]), "processes cannot train together there; take another host"
        )
    if not answer["right"]:
        return Check("all-reduce", Verdict.FAIL, f"{answer['backend']}: the sum is wrong", "take another host")
    return Check(
        "all-reduce", Verdict.PASS, f"{answer['backend']}, two processes, 4 MiB in {answer['seconds'] * 1000:.0f} ms"
    )


def unmeasured(name: str, why: str) -> Check:
    """What could not be looked at because something before it failed."""
    return Check(name, Verdict.WARN, f"not checked: {why}", "mend the failed check first")


def _another(asked: Asked) -> str:
    return f"close it and open another: gptops down {asked.host}"


def _gpus_in_words(gpus: list[Gpu]) -> str:
    if not gpus:
        return "0 GPUs"
    names = sorted({gpu.name for gpu in gpus})
    return " + ".join(f"{sum(gpu.name == name for gpu in gpus)} x {name}" for name in names)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))
