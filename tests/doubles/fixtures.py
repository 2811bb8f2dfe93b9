"""What a test of a cloud needs: import the fixture, or start the double yourself.

from tests.doubles.fixtures import vast  # noqa: F401 (a fixture)

def test_…(vast: VastCloud) -> None: …                # $VAST_URL and $VAST_API_KEY lead to it, for subprocesses too
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.machines import reason_to_skip
from tests.doubles.vast_cloud import VastCloud


@pytest.fixture
def vast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VastCloud]:
    """A double of Vast with real hosts, where the environment says that Vast is."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    with VastCloud(tmp_path / "vast") as double:
        monkeypatch.setenv("VAST_URL", double.url)
        monkeypatch.setenv("VAST_API_KEY", double.key)
        yield double


@pytest.fixture
def vast_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VastCloud]:
    """The same without hosts: instances are rows, and nothing listens behind their addresses."""
    with VastCloud(tmp_path / "vast", sshd=False) as double:
        monkeypatch.setenv("VAST_URL", double.url)
        monkeypatch.setenv("VAST_API_KEY", double.key)
        yield double
