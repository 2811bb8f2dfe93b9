"""`gptops run` killed with SIGKILL at one step after the other, and called again each time: it goes on to the end."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import ExitCode
from tests.launcher.command_line import Finished
from tests.launcher.conftest import require_programs
from tests.launcher.workshop import Workshop

pytestmark = pytest.mark.slow

OPENING = ["up:intended", "up:recorded", "up:open", "run:rented", "run:check"]
STARTING = ["run:train", "train:uploaded", "train:intended", "train:prepared", "train:started", "run:watch"]
WATCHING = ["sync:transferred", "sync:committed", "sync:recorded"]
LEAVING = ["run:leave", "run:leaving", "down:closing", "down:destroyed", "down:forgotten"]


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    require_programs()
    made = Workshop(tmp_path)
    yield made
    for instance in made.provider().labelled("gptops:"):
        made.provider().destroy(instance.instance_id)


def run(workshop: Workshop, *words: str, crash_at: str = "") -> Finished:
    return workshop.gptops("run", "demo", "--skip-setup", "--skip-test", *words, crash_at=crash_at)


@pytest.mark.parametrize(
    "points", [OPENING, STARTING, [*WATCHING, *LEAVING]], ids=["opening", "starting", "watching and leaving"]
)
def test_killed_at_every_step_and_called_again_it_ends_as_if_nothing_had_happened(
    workshop: Workshop, points: list[str]
) -> None:
    for point in points:
        killed = run(workshop, crash_at=point)
        assert killed.exit_code == -signal.SIGKILL, f"{point}: {killed.stdout}{killed.stderr}"
        living = [row for row in workshop.machines() if row.state.value != "closed"]
        assert len(living) <= 1, point
    done = run(workshop, "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["state"], answer["moves"]) == ("ended", 0)
    assert workshop.at_home() == [2, 4, 6, 8]
    assert workshop.curve(answer["run_id"]) == list(range(1, 9))
    assert {row.state.value for row in workshop.machines()} == {"closed"}
    assert workshop.nothing_is_left()


def test_killed_while_it_goes_on_elsewhere_nothing_is_lost(workshop: Workshop) -> None:
    workshop.allow(5)
    assert run(workshop, "--detach").exit_code == 0
    assert run(workshop, crash_at="sync:recorded").exit_code == -signal.SIGKILL
    workshop.take_away()
    workshop.allow(None)
    for point in ("run:leave", "down:closing", "run:rent", "restore:pushed", "restore:published", "train:started"):
        killed = run(workshop, crash_at=point)
        assert killed.exit_code == -signal.SIGKILL, f"{point}: {killed.stdout}{killed.stderr}"
    done = workshop.gptops("watch", "--json")
    assert done.exit_code == ExitCode.OK, done.stderr
    answer = json.loads(done.stdout)
    assert answer["moves"] == 1
    assert workshop.at_home()[-1] == 8
    assert workshop.curve(answer["run_id"]) == list(range(1, 9))
    assert workshop.nothing_is_left()
