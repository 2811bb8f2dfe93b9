"""`gptops run` and `gptops watch` as a user types them: words, exit codes, and what is said on leaving."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import ExitCode
from tests.launcher.conftest import require_programs
from tests.launcher.waiting import wait_until
from tests.launcher.workshop import Workshop

RUN = ("run", "demo", "--skip-setup", "--skip-test")


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    require_programs()
    made = Workshop(tmp_path)
    yield made
    for instance in made.provider().labelled("gptops:"):
        made.provider().destroy(instance.instance_id)


@pytest.mark.slow
def test_detached_by_ctrl_c_it_says_what_goes_on_and_watch_sees_it_through(workshop: Workshop) -> None:
    workshop.allow(5)
    with workshop.started(*RUN) as process:
        wait_until(lambda: 4 in workshop.at_home(), seconds=120, what="a checkpoint at home")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == ExitCode.INTERRUPTED
    [run_id] = [path.name for path in (workshop.root / "runs").iterdir() if path.is_dir()]
    [row] = [row for row in workshop.machines() if row.state.value == "open"]
    assert f"`{run_id}` goes on on `{row.name}`; come back with `gptops watch {row.name}`" in said
    assert f"`gptops down {row.name} --sync-first`" in said
    workshop.allow(None)
    done = workshop.gptops("watch", run_id[:6])
    assert done.exit_code == ExitCode.OK, done.stderr
    assert workshop.at_home() == [2, 4, 6, 8]
    assert workshop.nothing_is_left()


@pytest.mark.slow
def test_the_training_s_failure_is_the_exit_code_and_the_answer(workshop: Workshop) -> None:
    workshop.crash_at(1, 2, "error: no such key")
    done = workshop.gptops(*RUN, "--json")
    assert done.exit_code == ExitCode.RUN_FAILED
    answer = json.loads(done.stdout)
    assert answer["ending"]["what"] == "the training failed with exit code 2: its configuration was refused"
    assert answer["state"] == "ended"
    assert workshop.nothing_is_left()


def test_nothing_is_rented_without_a_yes(workshop: Workshop) -> None:
    workshop.where = "vast"
    workshop.write_jobs("budget: {max_usd: 5}")
    done = workshop.gptops("run", "demo")
    assert done.exit_code == ExitCode.USAGE
    assert "`demo` rents at `vast`: at any price, $5.00 in all" in done.stderr
    assert "hint:  gptops run demo --yes" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("run", "demp"), ExitCode.NOT_FOUND, "did you mean"),
        (("run", "demo", "--resume", "nothing"), ExitCode.NOT_FOUND, "there is no run `nothing`"),
        (("watch",), ExitCode.NOT_FOUND, "no `gptops run` is going on"),
        (("watch", "demo-1"), ExitCode.NOT_FOUND, "nothing called `demo-1` is going on"),
    ],
)
def test_what_names_nothing_is_said(workshop: Workshop, words: tuple[str, ...], code: ExitCode, said: str) -> None:
    done = workshop.gptops(*words)
    assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
    assert workshop.machines() == []
