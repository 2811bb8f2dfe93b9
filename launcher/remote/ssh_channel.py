"""One command's talk on an open channel: stdin fed, both outputs taken exactly, a deadline that holds.

Everything is non-blocking, so that a peer that stops reading or writing stops
nobody here. What the end means is the transport's.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from launcher.clock import Clock

if TYPE_CHECKING:
    import paramiko

CHUNK_BYTES = 65536
FEED_SECONDS = 0.02
"""How often a peer that has no room for more stdin is asked again; paramiko has no event for it."""


def converse(channel: paramiko.Channel, stdin: bytes, deadline: float, clock: Clock) -> tuple[str, str]:
    """stdout and stderr (surrogateescape) of the command on `channel`. Raises TimeoutError at the deadline."""
    to_feed: memoryview | None = memoryview(stdin)
    stdout, stderr = bytearray(), bytearray()
    wakes = channel.fileno()  # readable when there is output, or an end
    channel.setblocking(0)
    to_feed = _fed(channel, to_feed)
    while not _drained(channel, stdout, stderr):
        patience = deadline - clock.monotonic()
        if patience <= 0:
            raise TimeoutError
        select.select([wakes], [], [], min(patience, FEED_SECONDS) if to_feed is not None else patience)
        to_feed = _fed(channel, to_feed)
    return _text(stdout), _text(stderr)


def _fed(channel: paramiko.Channel, stdin: memoryview | None) -> memoryview | None:
    """Send what the peer has room for; None when all is sent and stdin is closed."""
    if stdin is None:
        return None
    try:
        while stdin and channel.send_ready():
            stdin = stdin[channel.send(stdin[:CHUNK_BYTES].tobytes()) :]
        if not stdin:
            channel.shutdown_write()
    except OSError:
        if not channel.closed:
            raise
        return None  # the command ended without reading everything, as it may
    return stdin or None


def _drained(channel: paramiko.Channel, stdout: bytearray, stderr: bytearray) -> bool:
    """Take what has come. True when the peer has ended and nothing more can come."""
    # `closed` and the exit code may arrive between two looks: look at them before the buffers.
    over = bool(channel.closed) or (channel.exit_status_ready() and bool(channel.eof_received))
    while channel.recv_ready():
        stdout += channel.recv(CHUNK_BYTES)
    while channel.recv_stderr_ready():
        stderr += channel.recv_stderr(CHUNK_BYTES)
    return over


def _text(output: bytearray) -> str:
    return output.decode("utf-8", errors="surrogateescape")
