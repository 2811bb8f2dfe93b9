"""What every test stands on: no network, no user's state, a clock that obeys, and golden files."""

from __future__ import annotations

import difflib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"
ACCEPT = "GPTOPS_ACCEPT_GOLDEN"
OURS = ipaddress.ip_network("198.18.0.0/15")
"""For tests of network devices (RFC 2544): the namespaces of tests/doubles/nodes.py, on this machine."""


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs us in the background lets all our children ignore Ctrl-C, which many tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class NetworkBlocked(RuntimeError):
    """A test reached for a machine that is not this one. No OSError: nothing of ours may catch it."""


class FakeClock:
    """launcher.clock.Clock that moves only when told, or when somebody sleeps."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self.seconds = start
        self.slept: list[float] = []

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def advance(self, seconds: float) -> None:
        """Let time pass without anybody sleeping."""
        self.seconds += seconds


@pytest.fixture
def fake_clock() -> FakeClock:
    """Time that a test moves by hand."""
    return FakeClock()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("check_demo.txt", text)`: the text equals the file in tests/golden, or the diff is shown."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get(ACCEPT):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        expected = path.read_text(encoding="utf-8") if path.exists() else ""
        if text != expected:
            lines = difflib.unified_diff(expected.splitlines(), text.splitlines(), str(path), "now", lineterm="")
            accept = f"{ACCEPT}=1 python -m pytest '{request.node.nodeid}'"
            pytest.fail("\n".join([*lines, "", f"if this is right, accept it: {accept}"]), pytrace=False)

    return compare


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own GPTOPS_HOME, a terminal of 100 plain columns, and no crash point."""
    monkeypatch.setenv("GPTOPS_HOME", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("VAST_URL", "RUNPOD_REST_URL", "LAMBDA_API_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # whatever a test does: no cloud is asked, no money spent
    for name in ("VAST_API_KEY", "RUNPOD_API_KEY", "LAMBDA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("GPTOPS_CRASH_AT", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Connections and names of other machines are refused, loudly. Child processes are not covered."""
    patch = pytest.MonkeyPatch()
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _refuse_others(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _refuse_others(self.family, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None and not _is_this_machine(host):
            raise NetworkBlocked(f"a test asked for the address of {host!r}")
        return getaddrinfo(host, *args, **kwargs)

    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
    yield
    patch.undo()


def _refuse_others(family: int, address: Any) -> None:
    if family in (socket.AF_INET, socket.AF_INET6) and not _is_this_machine(address[0]):
        raise NetworkBlocked(f"a test connected to {address!r}")


def _is_this_machine(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in ("", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified or address in OURS
