"""An HTTP server on loopback that a cloud's double is made of: questions kept, faults on demand, rate limits.

A double subclasses `Cloud` and answers in `answer(asked)`. What every double has:

    cloud.url, cloud.time, cloud.meter, cloud.machines, cloud.credit
    cloud.requests                       every question, in order: .method .path .query .body .headers .status .at
    cloud.count("PUT", r"/asks/")        how many of them
    cloud.fail("PUT", r"/asks/", Reply(503, "<html>…"), times=2)          instead of doing what was asked
    cloud.fail("PUT", r"/asks/", DROPPED, when="after")                   done, but the answer never arrives
    cloud.limit("create", "PUT", r"/asks/", seconds=4.5)                  429 for whoever asks faster
    with cloud.lock: …                   while looking at several things at once
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from launcher.clock import Clock
from tests.doubles.cloud_time import STEP_SECONDS, Time
from tests.doubles.machines import Machines
from tests.doubles.meter import Meter

LOOPBACK = "127.0.0.1"


@dataclass
class Asked:
    """One question."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    headers: Mapping[str, str]
    """Names in lower case."""
    at: float
    status: int | None = None
    """What was answered; 0 for a dropped connection."""


@dataclass(frozen=True)
class Reply:
    """One answer: an object for JSON, or text as it is."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()

    @property
    def content_type(self) -> str:
        if not isinstance(self.body, str):
            return "application/json"
        return "text/html" if self.body.lstrip().startswith("<") else "text/plain"


DROPPED = Reply(0)
"""The connection is reset instead of an answer."""


@dataclass
class Fault:
    """What goes wrong with the next questions of a kind."""

    method: str
    pattern: str
    reply: Reply
    times: int
    when: Literal["before", "after"]

    def hits(self, asked: Asked) -> bool:
        return self.times > 0 and self.method in ("*", asked.method) and bool(re.search(self.pattern, asked.path))


@dataclass
class Limit:
    """The least time between two questions of a kind."""

    name: str
    method: str
    pattern: str
    seconds: float
    replies: list[Reply]
    """In turn: vendors have more than one way to say 429."""
    last_at: float = float("-inf")

    def refuses(self, asked: Asked) -> bool:
        if self.method not in ("*", asked.method) or not re.search(self.pattern, asked.path):
            return False
        early = asked.at - self.last_at < self.seconds - 1e-6
        self.last_at = asked.at
        return early


class Cloud:
    """The part of a double that knows no vendor. A context manager; `close` ends its machines too."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        step: float = STEP_SECONDS,
        port: int = 0,
        key: str = "test-key",
    ) -> None:
        self.key = key
        self.time = Time(clock, step=step)
        self.meter = Meter()
        self.machines = Machines(folder)
        self.requests: list[Asked] = []
        self.credit = 1_000.0
        self.lock = threading.RLock()
        self.faults_of_ours: list[BaseException] = []
        """Exceptions inside the double; `close` raises the first."""
        self._is_closed = False
        self._faults: list[Fault] = []
        self._limits: list[Limit] = []
        self._server = _Server((LOOPBACK, port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def __enter__(self) -> Cloud:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Until somebody closes it."""
        self._thread.join()

    def close(self) -> None:
        """Stop serving; end every machine."""
        with self.lock:
            self._is_closed = True  # a question that still comes starts nothing
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.machines.end_all()
        if self.faults_of_ours:
            raise self.faults_of_ours[0]

    def fail(
        self, method: str, pattern: str, reply: Reply, *, times: int = 1, when: Literal["before", "after"] = "before"
    ) -> None:
        """The next `times` questions `method pattern` get this reply; with `after`, once they have taken effect."""
        self._faults.append(Fault(method, pattern, reply, times, when))

    def forgive(self) -> None:
        """Nothing that `fail` said goes wrong any more."""
        self._faults.clear()

    def limit(
        self, name: str, method: str, pattern: str, *, seconds: float, replies: list[Reply] | None = None
    ) -> None:
        """Answer 429 to whoever asks faster than this."""
        default = [Reply(429, "API requests too frequent")]
        self._limits.append(Limit(name, method, pattern, seconds, replies or default))

    def count(self, method: str, pattern: str) -> int:
        """How many such questions were asked."""
        return sum(1 for asked in self.requests if asked.method == method and re.search(pattern, asked.path))

    def answer(self, asked: Asked) -> Reply:
        """What the vendor would say. Called under the lock."""
        raise NotImplementedError

    def reply_to(self, asked: Asked) -> Reply:
        """The answer, or the fault that takes its place."""
        with self.lock:
            if self._is_closed:
                return DROPPED
            self.time.tick()
            asked.at = self.time.now()
            self.requests.append(asked)
            try:
                reply = self._reply(asked)
            except Exception as error:  # noqa: BLE001 (kept, and raised at the end)
                self.faults_of_ours.append(error)
                reply = Reply(500, f"the double itself is at fault: {error!r}")
            asked.status = reply.status
            return reply

    def _reply(self, asked: Asked) -> Reply:
        for limit in self._limits:
            if limit.refuses(asked):
                limit.replies.append(limit.replies.pop(0))
                return limit.replies[-1]
        fault = next((fault for fault in self._faults if fault.hits(asked)), None)
        if fault is None:
            return self.answer(asked)
        fault.times -= 1
        if fault.when == "after":
            self.answer(asked)
        return fault.reply


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], cloud: Cloud) -> None:
        self.cloud = cloud
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, killed perhaps, is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def _serve(self) -> None:
        split = urlsplit(self.path)
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(
            self.command,
            unquote(split.path),
            dict(parse_qsl(split.query, keep_blank_values=True)),
            _parsed(sent),
            {name.lower(): value for name, value in self.headers.items()},
            0.0,
        )
        self.close_connection = True
        reply = self.server.cloud.reply_to(asked)
        if reply.status == 0:
            # Closed with something unsent to linger for: a reset, not an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        content = b"" if reply.status == 204 else reply.content
        self.send_response(reply.status)
        headers = {"Content-Type": reply.content_type, "Content-Length": str(len(content)), "Connection": "close"}
        for name, value in {**headers, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def log_message(self, *args: Any) -> None:
        """Tests read `requests`."""


def _parsed(sent: bytes) -> Any:
    try:
        return json.loads(sent) if sent else None
    except ValueError:
        return sent.decode(errors="replace")
