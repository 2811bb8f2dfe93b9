"""The dead-man's switch: the real program, armed on this machine, in a time that the test moves."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.launcher.switch_box import GENEROUS_SECONDS, SwitchBox
from tests.launcher.waiting import wait_until

KEY = "instance-key-6c1f"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[SwitchBox]:
    box = SwitchBox(tmp_path / "box")
    yield box
    box.end()


@contextmanager
def an_api(*codes: int) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """An API that answers these codes, then 200: its URL, and (path, key, body) of what was asked."""
    asked: list[tuple[str, str, str]] = []
    left = list(codes)

    class Answer(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            asked.append((self.path, self.headers.get("Authorization", ""), body))
            self.send_response(left.pop(0) if left else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"success": True}).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def ends(box: SwitchBox, asked: list[tuple[str, str, str]], count: int = 1) -> None:
    """Wait until the provider was asked that often."""
    wait_until(lambda: len(asked) >= count, seconds=GENEROUS_SECONDS, what=box.log)


# Deadlines


def test_nothing_happens_before_the_deadline(box: SwitchBox) -> None:
    run = box.add_run(alive=True)
    answer = box.arm(deadline=3600, final=5400)
    assert (answer["phase"], answer["watching"], answer["deadline_left"]) == ("armed", "yes", "3600")
    box.pass_time(3599)
    assert box.call("status")["deadline_left"] == "1"
    assert not (run / "status" / "stops").exists()


def test_at_the_deadline_runs_save_checkpoints_come_home_and_the_bill_ends(box: SwitchBox) -> None:
    with an_api() as (url, asked):
        box.environ({"CONTAINER_ID": "4711", "CONTAINER_API_KEY": KEY})
        run = box.add_run(alive=True)
        checkpoint = box.add_checkpoint(run, 500, at_home=False)
        assert box.arm(kind="vast", api=url, deadline=3600, final=5400, save=120)["can_end"] == "yes"
        box.pass_time(3600)
        box.wait_for("saving")
        assert (run / "status" / "stops").read_text() == "120\n"
        box.pass_time(600)
        assert asked == [], "it waits for the checkpoint"
        box.bring_home(checkpoint)
        ends(box, asked)
        assert asked[0] == ("/api/v0/instances/4711/", f"Bearer {KEY}", "{}")
    assert KEY not in box.log


def test_at_the_last_deadline_the_bill_ends_whatever_is_not_at_home(box: SwitchBox) -> None:
    with an_api() as (url, asked):
        box.environ({"CONTAINER_ID": "1", "CONTAINER_API_KEY": KEY})
        run = box.add_run(alive=True)
        (run / "status" / "stubborn").touch()
        box.add_checkpoint(run, 500, at_home=False)
        box.arm(kind="vast", api=url, deadline=3600, final=5400)
        box.pass_time(5399)
        box.wait_for("stopping")
        assert asked == []
        box.pass_time(1)
        ends(box, asked)
    assert "these do not end: demo-1" in box.log


def test_a_checkpoint_of_another_content_is_not_at_home(box: SwitchBox) -> None:
    """The step was trained anew after the one that sync brought home."""
    run = box.add_run(alive=False)
    checkpoint = box.add_checkpoint(run, 500, at_home=True)
    box.add_checkpoint(run, 400, at_home=True)
    (run / "checkpoints" / "step_00000600.tmp").mkdir()
    (run / "checkpoints" / "step_00000600.tmp" / "MANIFEST.json").write_text("half")
    (checkpoint / "MANIFEST.json").write_text("trained again")
    box.arm(deadline=60, final=5400)
    box.pass_time(60)
    box.wait_for("saving")
    box.pass_time(60)
    assert box.fact("phase") == "saving"
    box.bring_home(checkpoint)
    box.wait_for("over")


def test_a_machine_without_a_key_of_its_own_stops_the_runs_and_says_that_it_bills_on(box: SwitchBox) -> None:
    run = box.add_run(alive=True)
    assert box.arm(kind="none", deadline=60, final=90)["can_end"] == "no"
    box.pass_time(60)
    box.wait_for("over")
    assert (run / "status" / "alive").read_text() == "no\n"
    assert "cannot end its bill itself" in box.log


def test_a_local_host_ends_the_processes_that_bear_its_mark(box: SwitchBox) -> None:
    with psutil.Popen(["sleep", "1000"], env=box._env()) as marked, psutil.Popen(["sleep", "1000"]) as other:
        box.arm(kind="local", deadline=60, final=90)
        box.pass_time(60)
        box.wait_for("over")
        assert marked.wait(GENEROUS_SECONDS) == -9
        assert other.is_running()
        other.kill()


# Idleness


def test_idleness_begins_when_the_last_run_has_ended_and_a_visit_begins_it_anew(box: SwitchBox) -> None:
    run = box.add_run(alive=True)
    box.arm(deadline=90_000, final=99_000, idle=1800)
    box.pass_time(7200)
    assert box.fact("phase") == "armed", "a run lives"
    (run / "status" / "alive").write_text("no\n")
    box.pass_time(1700)
    box.visit()
    box.pass_time(1700)
    assert box.fact("phase") == "armed"
    box.pass_time(100)
    box.wait_for("over")
    assert box.fact("why") == "idle"


def test_somebody_who_types_on_the_machine_is_there(box: SwitchBox) -> None:
    box.arm(deadline=90_000, final=99_000, idle=1800)
    box.pass_time(1700)
    (box.root / "no-terminals" / "0").touch()
    box.pass_time(1700)
    assert box.fact("phase") == "armed"


def test_an_idle_machine_waits_for_its_checkpoints_and_somebody_who_comes_gets_it_back(box: SwitchBox) -> None:
    run = box.add_run(alive=False)
    checkpoint = box.add_checkpoint(run, 500, at_home=False)
    box.arm(deadline=90_000, final=99_000, idle=1800)
    box.pass_time(1800)
    box.wait_for("saving")
    assert box.fact("why") == "idle"
    box.visit()
    box.wait_for("armed")
    box.bring_home(checkpoint)
    box.pass_time(1800)
    box.wait_for("over")


def test_a_renewable_deadline_is_pushed_by_a_visit_and_a_budgets_is_not(box: SwitchBox) -> None:
    box.arm(deadline=3600, final=5400, renewable="yes")
    box.pass_time(3000)
    assert box.call("visit")["deadline_left"] == "3600"
    box.arm(deadline=3600, final=5400, renewable="no")
    box.pass_time(3000)
    assert box.call("visit")["deadline_left"] == "600"


# One run's own time


def test_a_run_with_a_limit_is_stopped_and_nothing_else(box: SwitchBox) -> None:
    limited, other = box.add_run("demo-1", alive=True), box.add_run("demo-2", alive=True)
    box.call("limit", "demo-1", "600")
    box.pass_time(599)
    assert not (limited / "status" / "stops").exists()
    box.pass_time(1)
    wait_until(lambda: (limited / "status" / "stops").exists(), seconds=GENEROUS_SECONDS, what=box.log)
    assert not (other / "status" / "stops").exists()
    box.wait_for("over")
    assert box.call("limit", "demo-2", "600")["watching"] == "yes", "it can be used again"


# What goes wrong


def test_a_step_of_the_clock_moves_no_deadline(box: SwitchBox) -> None:
    box.arm(deadline=3600, final=5400)
    for wall in (0, 4_000_000_000):
        box.wall(wall)
        box.pass_time(10)
    assert box.fact("phase") == "armed"
    assert box.call("status")["deadline_left"] == "3580"


def test_a_killed_switch_goes_on_where_it_was(box: SwitchBox) -> None:
    box.arm(deadline=3600, final=5400)
    box.pass_time(3000)
    box.kill_watcher()
    box.at(box.uptime + 500)
    answer = box.call("start") or box.call("status")
    assert (answer["watching"], answer["deadline_left"]) == ("yes", "100")
    box.pass_time(100)
    box.wait_for("over")


@pytest.mark.parametrize(("wall_passed", "up", "left"), [(600, 30, "2400"), (-5_000_000, 30, "2970")])
def test_a_reboot_counts_by_the_clock_or_the_new_uptime_whichever_says_more(
    box: SwitchBox, wall_passed: int, up: int, left: str
) -> None:
    box.arm(deadline=3600, final=5400)
    box.pass_time(600)
    box.kill_watcher()
    box.boot("boot-2")
    box.wall(1_700_000_000 + wall_passed)
    box.at(up)
    box.call("visit")
    assert box.call("status")["deadline_left"] == left


def test_armed_twice_it_is_one_process_with_the_newer_plan(box: SwitchBox) -> None:
    box.arm(deadline=60, final=90)
    [first] = box.watchers()
    assert box.arm(deadline=3600, final=5400)["deadline_left"] == "3600"
    assert box.watchers() == [first]
    box.pass_time(100)
    assert box.fact("phase") == "armed"


def test_armed_again_while_it_waits_for_checkpoints_it_goes_back(box: SwitchBox) -> None:
    box.add_checkpoint(box.add_run(alive=False), 500, at_home=False)
    box.arm(deadline=60, final=5400)
    box.pass_time(60)
    box.wait_for("saving")
    box.arm(deadline=3600, final=5400)
    box.wait_for("armed")
    box.pass_time(100)
    assert box.call("status")["phase"] == "armed"


def test_a_provider_that_fails_is_asked_again_and_again_ever_more_slowly(box: SwitchBox) -> None:
    with an_api(500, 429, 401) as (url, asked):
        box.environ({"CONTAINER_ID": "1", "CONTAINER_API_KEY": KEY})
        box.arm(kind="vast", api=url, deadline=60, final=90)
        box.pass_time(60)
        ends(box, asked)
        box.pass_time(4)
        assert len(asked) == 1
        for count, pause in ((2, 1), (3, 10), (4, 20), (5, 40)):
            box.pass_time(pause)
            ends(box, asked, count)
        assert "(HTTP 500)" in box.log
        assert "(HTTP 429)" in box.log


def test_an_api_that_cannot_be_reached_is_asked_again(box: SwitchBox) -> None:
    box.environ({"CONTAINER_ID": "1", "CONTAINER_API_KEY": KEY})
    with an_api() as (url, _):
        pass
    box.arm(kind="vast", api=url, deadline=60, final=90)
    box.pass_time(60)
    wait_until(lambda: box.log.count("DELETE") == 1, seconds=GENEROUS_SECONDS, what=box.log)
    box.pass_time(5)
    wait_until(lambda: box.log.count("DELETE") == 2, seconds=GENEROUS_SECONDS, what=box.log)


def only(box: SwitchBox, *without: str) -> None:
    """Take programs away from the machine."""
    programs = box.root / "programs"
    programs.mkdir()
    for folder in ("/bin", "/usr/bin"):
        for path in Path(folder).iterdir():
            if path.name not in without and not (programs / path.name).exists():
                (programs / path.name).symlink_to(path)
    python = shutil.which("python3")
    assert python is not None
    if "python3" not in without and not (programs / "python3").exists():
        (programs / "python3").symlink_to(python)
    box.extra["PATH"] = str(programs)


def test_without_curl_python_asks(box: SwitchBox) -> None:
    only(box, "curl")
    with an_api(500) as (url, asked):
        box.environ({"CONTAINER_ID": "1", "CONTAINER_API_KEY": KEY})
        assert box.arm(kind="vast", api=url, deadline=60, final=90)["can_end"] == "yes"
        box.pass_time(60)
        ends(box, asked)
        box.pass_time(5)
        ends(box, asked, 2)
        assert asked[1] == ("/api/v0/instances/1/", f"Bearer {KEY}", "{}")
        assert "(HTTP 500)" in box.log


def test_a_machine_that_can_ask_nobody_says_so_when_it_is_armed(box: SwitchBox) -> None:
    box.environ({"CONTAINER_ID": "1"})
    assert box.arm(kind="vast", api="http://127.0.0.1:9", deadline=60, final=90)["can_end"] == "no"


def test_the_key_is_found_in_etc_environment_too(box: SwitchBox) -> None:
    (box.root / "etc-environment").write_text(f'PATH="/bin"\nRUNPOD_POD_ID="pod1"\nexport RUNPOD_API_KEY={KEY}\n')
    with an_api() as (url, asked):
        assert box.arm(kind="runpod", api=f"{url}/v2", deadline=60, final=90)["can_end"] == "yes"
        box.pass_time(60)
        ends(box, asked)
        assert asked[0][:2] == ("/v2/pods/pod1", f"Bearer {KEY}")


def test_a_container_that_restarts_starts_the_switch_again(box: SwitchBox) -> None:
    box.environ({"CONTAINER_ID": "1", "CONTAINER_API_KEY": KEY})
    for _ in range(2):
        box.arm(kind="vast", api="http://127.0.0.1:9", deadline=3600, final=5400)
    assert (box.root / "onstart.sh").read_text() == f"#!/bin/bash\nsh '{box.folder}/deadman.sh' start\n"


def test_its_folder_may_vanish_and_it_fires_all_the_same(box: SwitchBox) -> None:
    with an_api() as (url, asked):
        box.environ({"CONTAINER_ID": "1", "CONTAINER_API_KEY": KEY})
        box.arm(kind="vast", api=url, deadline=60, final=90)
        box.pass_time(10)
        shutil.rmtree(box.root / "gptops")
        box.at(box.uptime + 60)
        ends(box, asked)


def test_a_disk_on_which_nothing_can_be_written_stops_nothing(box: SwitchBox) -> None:
    """As a full disk does: no fact can be replaced any more."""
    with an_api() as (url, asked):
        box.environ({"CONTAINER_ID": "1", "CONTAINER_API_KEY": KEY})
        run = box.add_run(alive=True)
        box.arm(kind="vast", api=url, deadline=60, final=90)
        box.pass_time(10)
        state = box.folder / "state"
        state.rename(box.folder / "lost")
        state.write_text("in the way")
        box.at(box.uptime + 60)
        ends(box, asked)
        assert (run / "status" / "alive").read_text() == "no\n"


def test_a_plan_that_is_none_is_refused_and_the_old_one_stays(box: SwitchBox) -> None:
    box.arm(deadline=3600, final=5400)
    with pytest.raises(AssertionError, match="the plan has no deadline"):
        box.call("arm", stdin="kind=none\n")
    assert box.call("status")["deadline_left"] == "3600"
