"""The promises of tests/conftest.py itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.paths import state_paths


def test_other_machines_cannot_be_reached_or_named() -> None:
    with socket.socket() as out, pytest.raises(RuntimeError, match="a test connected to"):
        out.connect(("192.0.2.1", 80))
    with pytest.raises(RuntimeError, match="a test asked for the address of 'example"):
        socket.getaddrinfo("example.org", 80)


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_the_state_is_the_tests_own() -> None:
    assert str(state_paths().root) == os.environ["GPTOPS_HOME"]
    assert not (state_paths().root / "ledger.sqlite3").exists()


def test_a_golden_file_that_differs_shows_how_and_what_accepts_it(golden: Callable[[str, str], None]) -> None:
    if os.environ.get("GPTOPS_ACCEPT_GOLDEN"):
        pytest.skip("golden files are being accepted")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)\+something else.*GPTOPS_ACCEPT_GOLDEN=1 python -m pytest"):
        golden(
            "launcher_check.txt",
            Path(__file__).with_name("golden").joinpath("launcher_check.txt").read_text() + "something else\n",
        )
