"""A double of Vast.ai: its REST API on loopback, a billing meter, and instances that are real sshd hosts.

In a test (fixture `vast` of tests/doubles/fixtures.py), or by hand:

    with VastCloud(tmp_path) as vast:                    # VastCloud(tmp_path, sshd=False): rows without hosts
        monkeypatch.setenv("VAST_URL", vast.url); monkeypatch.setenv("VAST_API_KEY", vast.key)

    vast.time.advance(3600)                               # each question moves it by 5 s; clock=… follows a Clock
    vast.requests, vast.count("PUT", "/asks/")            # what was asked (tests/doubles/cloud.py)
    vast.alive()                                          # ids of the instances that were not destroyed
    vast.dollars(), vast.meter.of(id).gpu / .disk         # charged up to now; vast.meter.per_hour: 0 if nothing bills
    vast.box(id)                                          # its Box: .machine (a host: .cut(), .home), .label, .bid
    vast.market, vast.sell("H100 SXM", gpus=8, gpu_per_hour=17.0, cuda_max_good=13.0)      # the rows on offer
    vast.cluster(2, "H100 SXM", gpus=8)                   # machines of one physical cluster; vast.overlays on it
    vast.next(sshd_after=60), vast.always(gpus="broken")  # Script of the next, of every later instance
    vast.script("create_reply_lost")                      # the sixteen of tests/doubles/vast_scenarios.py
    vast.stop(id) vast.resume(id) vast.lose(id)           # outbid; runs again at another port; offline
    vast.fail("DELETE", "/instances/", Reply(503, "<html>"), times=2); vast.limits()

As a program, for a person:

    python -m tests.doubles.vast_cloud --port 8000
    VAST_URL=http://127.0.0.1:8000 VAST_API_KEY=test-key gptops up --provider vast --gpus 1

What it promises is what the official client can use: tests/launcher/test_vast_official_client.py.
"""

from __future__ import annotations

import argparse
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.clock import Clock, SystemClock
from tests.doubles import vast_api, vast_scenarios
from tests.doubles.cloud import LOOPBACK, Asked, Cloud, Reply
from tests.doubles.cloud_time import STEP_SECONDS
from tests.doubles.vast_box import Box, Script
from tests.doubles.vast_lan import Overlay, seat_of
from tests.doubles.vast_market import Row, offer_row, usual_market

FIRST_INSTANCE = 12_345_001


class VastCloud(Cloud):
    """The double. See the top of this file."""

    def __init__(
        self,
        folder: Path,
        *,
        sshd: bool = True,
        clock: Clock | None = None,
        step: float = STEP_SECONDS,
        port: int = 0,
        key: str = "test-key",
    ) -> None:
        self.sshd = sshd
        self.market: list[Row] = usual_market()
        self.boxes: dict[int, Box] = {}
        self.account_keys: list[str] = []
        self.overlays: dict[int, Overlay] = {}
        self.tells_subnets = True
        """False: later overlays do not say where their addresses lie."""
        self.errs_with_contract = 0
        """So many of the next creates succeed, stopped, and answer with an error."""
        self.has_v1 = True
        """False: the paged list is missing, as on an older server."""
        self._script = Script()
        self._next: list[Script] = []
        self._dead = socket.socket()
        self._dead.bind((LOOPBACK, 0))  # bound and never listening: whoever connects is refused
        super().__init__(folder, clock=clock, step=step, port=port, key=key)

    def __enter__(self) -> VastCloud:
        return self

    def close(self) -> None:
        self._dead.close()
        super().close()

    @property
    def dead_port(self) -> int:
        """A port that refuses everybody."""
        return int(self._dead.getsockname()[1])

    # What a test looks at

    def alive(self) -> list[str]:
        """Ids of all instances that were not destroyed, stopped ones included."""
        with self.lock:
            return [box.name for box in self.boxes.values() if not box.destroyed]

    def box(self, instance_id: str | int) -> Box:
        return self.boxes[int(instance_id)]

    def dollars(self) -> float:
        """Everything charged up to now."""
        with self.lock:
            self.settle()
            return self.meter.read(self.time.now())

    # What a test sets up

    def sell(self, gpu_name: str, *, gpus: int = 1, gpu_per_hour: float = 1.0, **changes: Any) -> Row:
        """One more row on the market."""
        with self.lock:
            row = offer_row(max(row["id"] for row in self.market) + 1 if self.market else 1001, gpu_name, gpus,
                            gpu_per_hour, **changes)  # fmt: skip
            self.market.append(row)
            return row

    def cluster(
        self,
        count: int,
        gpu_name: str,
        *,
        gpus: int = 1,
        gpu_per_hour: float = 1.0,
        cluster_id: int = 77,
        **changes: Any,
    ) -> list[Row]:
        """More rows on the market: so many machines of one physical cluster."""
        more = {"cluster_id": cluster_id, **changes}
        return [self.sell(gpu_name, gpus=gpus, gpu_per_hour=gpu_per_hour, **more) for _ in range(count)]

    def next(self, **changes: Any) -> None:
        """The next instance to be created fares so; called twice, the second is for the one after it."""
        self._next.append(replace(self._script, **changes))

    def always(self, **changes: Any) -> None:
        """Every later instance fares so."""
        self._script = replace(self._script, **changes)

    def script(self, name: str, **options: Any) -> None:
        """One of the scenarios by name, see vast_scenarios."""
        with self.lock:
            vast_scenarios.SCENARIOS[name](self, **options)

    def limits(self) -> None:
        """Enforce the published thresholds, in each of the ways to say 429."""
        for name, method, pattern, seconds in vast_api.THRESHOLDS:
            self.limit(name, method, pattern, seconds=seconds, replies=vast_api.too_frequent(seconds))

    # What a test lets happen

    def stop(self, instance_id: str | int) -> None:
        """Outbid, or stopped by its owner: killed without notice, the disk bills on."""
        self._event(instance_id, Box.stop)

    def lose(self, instance_id: str | int) -> None:
        """Its host goes offline."""
        self._event(instance_id, Box.lose)

    def resume(self, instance_id: str | int) -> None:
        """It runs again, at another port."""
        self._event(instance_id, Box.resume)

    def _event(self, instance_id: str | int, event: Callable[[Box, float, Any], None]) -> None:
        with self.lock:
            self.settle()
            event(self.box(instance_id), self.time.now(), self.meter)
            self.settle()

    # For the API

    def new_box(self, ask: Row, request: Mapping[str, Any], **changes: Any) -> Box:
        """An instance, from now on billing."""
        script = replace(self._next.pop(0) if self._next else self._script, **changes)
        box = Box(
            FIRST_INSTANCE + len(self.boxes),
            dict(ask),
            str(request.get("label") or ""),
            self.time.now(),
            script,
            request,
            keys=list(self.account_keys),
            inside=seat_of(self, request),
        )
        self.boxes[box.instance_id] = box
        self.settle()
        return box

    def settle(self) -> None:
        """Bring everybody up to now; without credit, everything stops."""
        now = self.time.now()
        for box in self.boxes.values():
            if not box.destroyed:
                box.settle(now, self.meter, self.machines if self.sshd else None, self._environment(box))
        if self.meter.read(now) >= self.credit:
            for box in self.boxes.values():
                if not box.destroyed and not box.stopped:
                    box.stop(now, self.meter)

    def _environment(self, box: Box) -> dict[str, str]:
        """What SSH sessions see. The container's own variables only where onstart puts them into /etc/environment."""
        if "/etc/environment" not in str(box.request.get("onstart")):
            return {"VAST_URL": self.url}
        return {
            "CONTAINER_ID": box.name,
            "CONTAINER_API_KEY": box.key,
            "GPU_COUNT": str(box.ask["num_gpus"]),
            "PUBLIC_IPADDR": LOOPBACK,
            "VAST_CONTAINERLABEL": f"C.{box.name}",
            "VAST_URL": self.url,  # on a rented machine there is none: the real address is the default
        }

    def answer(self, asked: Asked) -> Reply:
        self.settle()
        return vast_api.answer(self, asked)


def main() -> None:
    """Serve until Ctrl-C or SIGTERM; then end every machine."""
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background of a script, Ctrl-C would be ignored
        signal.signal(number, signal.default_int_handler)
    options = argparse.ArgumentParser(description="A double of Vast.ai on this machine.")
    options.add_argument("--port", type=int, default=8000)
    options.add_argument("--key", default="test-key")
    options.add_argument("--script", action="append", default=[], choices=sorted(vast_scenarios.SCENARIOS))
    chosen = options.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="vast-double-") as folder,
        VastCloud(Path(folder), clock=SystemClock(), port=chosen.port, key=chosen.key) as vast,
    ):
        for name in chosen.script:
            vast.script(name)
        print(f"export VAST_URL={vast.url} VAST_API_KEY={vast.key}", flush=True)
        try:
            vast.wait()
        except KeyboardInterrupt:
            print(f"\nalive: {', '.join(vast.alive()) or 'none'}; charged ${vast.dollars():.4f}")


if __name__ == "__main__":
    main()
