"""Uploads to a real sshd with a real rsync: what arrives, what is sent again, what is removed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger
from launcher.clock import SystemClock
from launcher.errors import Busy, ExitCode, HostUnfit
from launcher.lock import hold
from launcher.paths import state_paths
from launcher.project import Project, find_project
from launcher.remote.ssh import SshTransport
from launcher.running.snapshot import snapshot
from launcher.running.upload import Uploaded, preview, remote_code, trainer_files, upload
from tests.launcher.command_line import gptops
from tests.launcher.conftest import SshHost
from tests.launcher.test_snapshot import HOSTILE, write

OWN_TRAINER = "trainer/__init__.py"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "my project's $(code)"
    write(root, OWN_TRAINER, "data/a.txt", "src/deep/b.py")
    return find_project(root)


@pytest.fixture
def sent(transport: SshTransport, project: Project) -> Callable[[], Uploaded]:
    return lambda: upload(transport, project, snapshot(project.root), SystemClock())


@pytest.fixture
def there(ssh_host: SshHost, project: Project) -> Path:
    return ssh_host.home / remote_code(project)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def test_the_first_upload_sends_everything(sent: Callable[[], Uploaded], there: Path) -> None:
    done = sent()
    assert files_below(there) == {OWN_TRAINER, "data/a.txt", "src/deep/b.py"}
    assert (done.files, done.bytes, done.removed) == (3, 6, 0)


def test_the_same_again_sends_nothing(sent: Callable[[], Uploaded]) -> None:
    sent()
    again = sent()
    assert (again.files, again.bytes, again.removed) == (0, 0, 0)


def test_changing_one_file_sends_one_file(sent: Callable[[], Uploaded], project: Project, there: Path) -> None:
    sent()
    write(project.root, "src/deep/b.py", content="changed\n")
    assert sent().files == 1
    assert (there / "src/deep/b.py").read_text() == "changed\n"


def test_what_vanished_here_is_removed_there_and_nothing_else(
    sent: Callable[[], Uploaded], project: Project, there: Path
) -> None:
    sent()
    write(there, "src/deep/made_on_the_host.txt", "wandb/log")
    (project.root / "src/deep/b.py").unlink()
    (project.root / "data/a.txt").unlink()
    assert sent().removed == 2
    assert files_below(there) == {OWN_TRAINER, "src/deep/made_on_the_host.txt", "wandb/log"}
    assert not (there / "data").exists()


def test_files_folders_and_links_change_places(sent: Callable[[], Uploaded], project: Project, there: Path) -> None:
    write(project.root, "thing", "other/file")
    sent()
    (project.root / "thing").unlink()
    write(project.root, "thing/file")
    (project.root / "other/file").unlink()
    (project.root / "other").rmdir()
    (project.root / "other").symlink_to("data")
    sent()
    assert (there / "thing/file").read_text() == "x\n"
    assert os.readlink(there / "other") == "data"
    (project.root / "other").unlink()
    write(project.root, "other/file")
    sent()
    assert (there / "data/a.txt").exists()
    assert not (there / "other").is_symlink()


def test_links_and_executables_stay_what_they_are(sent: Callable[[], Uploaded], project: Project, there: Path) -> None:
    write(project.root, "run.sh")
    (project.root / "run.sh").chmod(0o755)
    (project.root / "latest").symlink_to("data/a.txt")
    (project.root / "nowhere").symlink_to("/no/such/file")
    sent()
    assert (there / "run.sh").stat().st_mode & stat.S_IXUSR
    assert os.readlink(there / "latest") == "data/a.txt"
    assert os.readlink(there / "nowhere") == "/no/such/file"


def test_hostile_names_arrive_and_leave(sent: Callable[[], Uploaded], project: Project, there: Path) -> None:
    names = [*HOSTILE, *(f"folders/{name}/{name}" for name in HOSTILE)]
    write(project.root, *names)
    assert sent().files == 3 + len(names)
    assert files_below(there) == {OWN_TRAINER, "data/a.txt", "src/deep/b.py", *names}
    for name in names:
        (project.root / name).unlink()
    assert sent().removed == len(names)
    assert files_below(there) == {OWN_TRAINER, "data/a.txt", "src/deep/b.py"}
    assert not (there / "folders").exists()


def test_an_upload_cut_before_it_sent_anything_leaves_no_file_that_nobody_knows(
    sent: Callable[[], Uploaded], project: Project, there: Path
) -> None:
    write(project.root, "new.py")
    there.mkdir(parents=True)
    (there.parent / (there.name + ".files")).write_bytes(b"new.py\0data/a.txt\0")  # the list, and no file yet
    (project.root / "new.py").unlink()
    sent()
    assert files_below(there) == {OWN_TRAINER, "data/a.txt", "src/deep/b.py"}


def test_a_list_from_the_host_cannot_reach_outside_the_folder(sent: Callable[[], Uploaded], there: Path) -> None:
    sent()
    precious = there.parent / "precious"
    precious.write_text("x")
    listing = there.parent / (there.name + ".files")
    listing.write_bytes(listing.read_bytes() + b"../precious\0" + os.fsencode(precious) + b"\0")
    assert sent().removed == 0
    assert precious.exists()


def test_a_project_without_a_trainer_gets_the_installed_one(
    sent: Callable[[], Uploaded], project: Project, there: Path
) -> None:
    (project.root / OWN_TRAINER).unlink()
    sent()
    assert files_below(there / "trainer") == {name.removeprefix("trainer/") for name in trainer_files()}
    assert sent().files == 0
    write(project.root, OWN_TRAINER)
    sent()
    assert files_below(there / "trainer") == {"__init__.py"}


def test_two_projects_of_one_name_do_not_share_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "a/gpt/x", "b/gpt/x")
    assert remote_code(find_project(tmp_path / "a/gpt")) != remote_code(find_project(tmp_path / "b/gpt"))


def test_a_second_upload_at_the_same_time_says_who_is_at_it(
    transport: SshTransport, project: Project, sent: Callable[[], Uploaded]
) -> None:
    lock = state_paths().locks / f"upload-{transport.host.name}-{project.slug}.lock"
    with hold(lock, "a test", SystemClock()), pytest.raises(Busy, match=r"upload|a test|lock"):
        sent()


def test_a_host_that_cannot_be_written_is_unfit(sent: Callable[[], Uploaded], project: Project, there: Path) -> None:
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_text("a file where the folder should be")
    with pytest.raises(HostUnfit):
        sent()


def test_the_preview_says_how_much_the_largest_and_what_is_left_out(project: Project) -> None:
    write(project.root, "big.bin", content="x" * 2_500_000)
    write(project.root, "__pycache__/x.pyc")
    lines = preview(snapshot(project.root))
    assert lines[0] == f"4 files, 2.4 MiB in `{project.root}`"
    assert lines[1].startswith("largest: big.bin 2.4 MiB, ")
    assert lines[2] == "left out: __pycache__/"


@pytest.fixture
def open_host(fresh_host: Callable[[], SshHost]) -> SshHost:
    """A host of this test's own, written into its ledger as one that is open."""
    host = fresh_host()
    with Ledger(host.state.ledger, SystemClock()) as ledger:
        row = ledger.intend_instance(
            label=host.instance.label,
            name=host.host.name,
            provider="local",
            project="tests",
            price_per_hour=0.0,
            gpus=0,
            gpu_name="",
        )
        ledger.mark_instance(row.label, InstanceState.OPEN, instance_id=host.instance.instance_id)
    return host


@pytest.fixture
def plain(tmp_path: Path) -> Project:
    """A project without a trainer of its own, which `python -m launcher` would import from the folder it runs in."""
    write(tmp_path / "plain", "train.py", "data/a.txt")
    return find_project(tmp_path / "plain")


def test_the_verb_says_before_what_it_will_send_and_after_what_it_did(open_host: SshHost, plain: Project) -> None:
    home = open_host.state.root
    first = gptops("upload", home=home, cwd=plain.root)
    assert (first.exit_code, first.stdout) == (0, "")
    said = first.stderr.splitlines()
    assert said[0] == f"2 files, 4 B in `{plain.root}`"
    assert said[1].startswith("largest: ")
    assert said[-1].startswith(f"uploaded {2 + len(trainer_files())} files (")
    write(plain.root, "data/a.txt", content="changed")
    second = gptops("upload", "--host", open_host.host.name, "--json", home=home, cwd=plain.root)
    assert second.exit_code == 0
    done = json.loads(second.stdout)
    assert (done["host"], done["files"], done["target"]) == (open_host.host.name, 1, str(remote_code(plain)))


def test_the_verb_without_an_open_host_says_how_to_open_one(plain: Project) -> None:
    done = gptops("upload", home=state_paths().root, cwd=plain.root)
    assert done.exit_code == ExitCode.NOT_FOUND
    assert done.stderr == "error: no host is open\nhint:  gptops up\n"
