"""How fast a checkpoint of 500 MB comes home and is verified, in turn with plain rsync of the same files over loopback.

Ours is the whole of `gptops sync` after its start: log in, list, transfer, sha256 of every byte, fsync, rename,
record. Plain rsync (`rsync -a`, OpenSSH as it comes) logs in and copies; it neither verifies nor forces anything to
the disk. The third is plain rsync with the cipher that gptops asks for, to tell the two apart. Each logs in anew.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from launcher.books.ledger import Ledger, RunRow, RunState
from launcher.checkpoints.pull import Puller
from launcher.checkpoints.sync import Policy, Sync, sync_once
from launcher.clock import SystemClock
from launcher.paths import LocalRun, RemoteRun, StatePaths
from launcher.providers.base import CreateRequest, Wanted
from launcher.providers.local import LocalProvider
from launcher.remote.host import Host
from launcher.remote.keys import ensure_key, public_line
from launcher.remote.pinning import pin
from launcher.remote.ssh import SshTransport
from launcher.remote.ssh_config import rsync_rsh, write_ssh_config
from trainer import manifest

ROUNDS = 7
MEGABYTES = {"model.safetensors": 167, "optimizer.safetensors": 333}
"""Weights and twice as much of Adam's moments: 500 MB, of a model with 42 M parameters."""
RUN = RemoteRun("bench")


@contextmanager
def opened_host(folder: Path) -> Iterator[tuple[Host, Path, StatePaths]]:
    """A private sshd as `gptops up --provider local` makes it, and its home as seen from here."""
    state = StatePaths(folder / "state")
    ensure_key(state.private_key)
    provider = LocalProvider(state.provider("local"))
    [offer] = provider.offers(Wanted())
    request = CreateRequest("gptops:bench:0", image="", disk_gib=0, public_key=public_line(state.private_key))
    instance = provider.create(offer, request)
    try:
        assert instance.host_key is not None
        host = Host("bench", instance.addresses, state.private_key, state.known_hosts("bench"))
        pin(host, instance.host_key)
        yield host, state.provider("local") / instance.instance_id / "home", state
    finally:
        provider.destroy(instance.instance_id)


def make_checkpoint(folder: Path) -> None:
    building = folder / f"{manifest.step_name(500)}.tmp"
    building.mkdir(parents=True)
    for name, megabytes in MEGABYTES.items():
        with (building / name).open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1_000_000))
    manifest.publish(building)


def pull_ours(host: Host, state: StatePaths, target: Path) -> None:
    """One `sync_once` on a connection of its own."""
    clock = SystemClock()
    transport = SshTransport(host, clock, control_sockets=state.control_sockets)
    with Ledger(target / "ledger.sqlite3", clock) as ledger, (target / "lock").open("w") as lock:
        ledger.add_run(
            RunRow(RUN.run_id, "bench", host.name, "", "", str(target), 0.0, RunState.RUNNING, None, False, 2)
        )
        local = LocalRun(target / "run")
        silent: Callable[..., nullcontext[Callable[[float], None]]] = lambda *_: nullcontext(lambda _done: None)  # noqa: E731
        puller = Puller(transport, RUN.checkpoints, local, clock, silent, lock.fileno())
        done = sync_once(
            Sync(RUN.run_id, puller, ledger, Policy(delete_remote=False), lambda _pulled: None), has_ended=False
        )
    transport.close()
    assert len(done.pulled) == 1, done


def pull_plain(rsh: str, host: Host, target: Path) -> None:
    source = f"{host.alias}:{RUN.checkpoints}/"
    subprocess.run(["rsync", "-a", "-e", rsh, source, f"{target}/"], check=True)


def plain_configs(host: Host, state: StatePaths) -> tuple[Path, Path]:
    """Our ssh_config without the shared connection: with OpenSSH's own choice of cipher, and with ours."""
    ours = write_ssh_config(host, host.addresses[0], state.control_sockets)
    lines = [line for line in ours.read_text().splitlines() if "Control" not in line]
    same_cipher = ours.with_name("same_cipher")
    same_cipher.write_text("\n".join(lines) + "\n")
    default = ours.with_name("default")
    default.write_text("\n".join(line for line in lines if "Ciphers" not in line) + "\n")
    return default, same_cipher


def seconds(action: Callable[[Path], None], folder: Path) -> float:
    target = folder / "target"
    target.mkdir()
    os.sync()  # what was written before must not be paid for now
    began = time.perf_counter()
    action(target)
    took = time.perf_counter() - began
    shutil.rmtree(target)
    return took


def main() -> None:
    with tempfile.TemporaryDirectory() as name, opened_host(Path(name)) as (host, home, state):
        folder = Path(name)
        make_checkpoint(home / RUN.checkpoints)
        default, same_cipher = plain_configs(host, state)
        actions: dict[str, Callable[[Path], None]] = {
            "gptops": lambda target: pull_ours(host, state, target),
            "rsync": lambda target: pull_plain(rsync_rsh(default), host, target),
            "rsync_same_cipher": lambda target: pull_plain(rsync_rsh(same_cipher), host, target),
        }
        taken: dict[str, list[float]] = {name: [] for name in actions}
        for round_number in range(ROUNDS + 1):  # the first warms the caches
            for name, action in actions.items():
                took = seconds(action, folder)
                if round_number:
                    taken[name].append(took)
    megabytes = sum(MEGABYTES.values())
    results: dict[str, float] = {}
    for name, all_seconds in taken.items():
        results[f"{name}_mb_per_s"] = round(megabytes / statistics.median(all_seconds), 1)
    for name in ("rsync", "rsync_same_cipher"):
        ratio = statistics.median(theirs / ours for theirs, ours in zip(taken[name], taken["gptops"], strict=True))
        results[f"ratio_to_{name}"] = round(ratio, 3)
    for name, value in results.items():
        print(f"{name:<28} {value}", file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
