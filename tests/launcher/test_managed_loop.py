"""`gptops run` on real hosts: whatever happens to machine and training, the job is finished or ended with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import ExitCode
from launcher.managed.errand import Errand
from launcher.managed.news import Event
from launcher.providers.local_processes import sshd_process
from launcher.providers.local_sshd import config_file
from tests.launcher.conftest import require_programs
from tests.launcher.workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    require_programs()
    made = Workshop(tmp_path)
    yield made
    for instance in made.provider().labelled("gptops:"):
        made.provider().destroy(instance.instance_id)


def ended_well(errand: Errand) -> bool:
    assert errand.ending is not None
    assert errand.ending.exit_code == ExitCode.OK, errand.ending
    return True


def test_a_job_is_trained_brought_home_and_its_machine_is_gone(workshop: Workshop) -> None:
    errand = workshop.run()
    assert ended_well(errand)
    assert workshop.at_home() == [2, 4, 6, 8]
    assert workshop.curve(errand.runs[0]) == list(range(1, 9))
    assert workshop.nothing_is_left()
    assert [news.event for news in workshop.news] == [Event.END]


def test_a_machine_that_is_taken_away_is_replaced_and_the_curve_is_one_line(workshop: Workshop) -> None:
    workshop.allow(5)

    def taken() -> None:
        workshop.take_away()
        workshop.allow(None)

    workshop.when(lambda: 4 in workshop.at_home(), taken)
    errand = workshop.run()
    assert ended_well(errand)
    _, second = errand.runs
    assert workshop.at_home() == [2, 4, 6, 8]
    assert workshop.curve(second) == list(range(1, 9))
    assert "begins after step 4" in workshop.home(second).log.read_text()
    assert not (workshop.home(second).checkpoints / "step_00000002").exists()
    assert [row.state.value for row in workshop.machines()] == ["closed", "closed"]
    assert [news.event for news in workshop.news] == [Event.PREEMPTION, Event.END]
    assert "from step 4" in workshop.news[0].text
    assert workshop.nothing_is_left()


def test_a_machine_that_falls_silent_is_waited_for_and_then_replaced(workshop: Workshop) -> None:
    workshop.every = 200
    workshop.write_jobs()
    workshop.allow(5)

    def silenced() -> None:
        [instance] = workshop.provider().labelled("gptops:")
        listener = sshd_process(config_file(workshop.state.provider("local") / instance.instance_id))
        assert listener is not None
        for process in (*listener.children(recursive=False), listener):
            process.kill()
        workshop.allow(None)

    workshop.when(lambda: 4 in workshop.at_home(), silenced)
    errand = workshop.run()
    assert ended_well(errand)
    assert len(errand.runs) == 2
    assert workshop.curve(errand.runs[1]) == list(range(1, 9))
    assert workshop.nothing_is_left()


def test_a_training_that_crashes_is_started_again_where_it_was(workshop: Workshop) -> None:
    workshop.crash_at(5, 1, "a bug that comes and goes", once=True)
    errand = workshop.run()
    assert ended_well(errand)
    assert errand.restarts == 1
    assert "begins after step 4" in workshop.home(errand.runs[0]).log.read_text()
    assert len(workshop.machines()) == len(errand.runs) == 1
    assert workshop.curve(errand.runs[0]) == list(range(1, 9))


def test_the_same_crash_twice_at_one_step_ends_the_job_with_what_it_has_at_home(workshop: Workshop) -> None:
    workshop.crash_at(5, 1, "the same bug")
    errand = workshop.run()
    assert errand.ending is not None
    assert errand.ending.exit_code == ExitCode.RUN_FAILED
    assert "exit code 1 after step 4, twice at the same step" in errand.ending.what
    assert "the same bug" in errand.ending.why
    assert errand.restarts == 1
    assert workshop.at_home() == [2, 4]
    assert workshop.nothing_is_left()
    assert [news.event for news in workshop.news] == [Event.FAILURE]


def test_a_chain_of_jobs_uses_one_machine(workshop: Workshop) -> None:
    errand = workshop.run("demo", "second")
    assert ended_well(errand)
    assert errand.job == "second"
    assert len(workshop.machines()) == 1
    assert sorted(path.name.split("-")[0] for path in (workshop.root / "runs").iterdir() if path.is_dir()) == [
        "demo",
        "second",
    ]
    assert workshop.nothing_is_left()


def test_a_job_whose_hours_are_used_up_saves_comes_home_and_ends(workshop: Workshop) -> None:
    workshop.write_jobs("budget: {max_hours: 0.5}")
    workshop.allow(5)
    workshop.when(lambda: 4 in workshop.at_home(), lambda: workshop.clock.sleep(1800))
    errand = workshop.run()
    assert errand.ending is not None
    assert errand.ending.exit_code == ExitCode.BUDGET
    assert workshop.at_home() == [2, 4, 5]
    assert f"gptops run demo --resume {errand.runs[0]}" in errand.ending.hint
    assert [news.event for news in workshop.news] == [Event.BUDGET, Event.BUDGET]
    assert workshop.nothing_is_left()


def test_a_detached_errand_is_come_back_to(workshop: Workshop) -> None:
    errand = workshop.run(only_start=True)
    assert errand.ending is None
    [row] = workshop.machines()
    assert row.state.value == "open"
    again = workshop.go_on(errand.errand_id)
    assert ended_well(again)
    assert again.runs == errand.runs
    assert workshop.curve(again.runs[0]) == list(range(1, 9))
    assert workshop.nothing_is_left()
