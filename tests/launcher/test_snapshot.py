"""Which files are the code: asked of real git repositories and real folders."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from launcher.errors import LocalFault
from launcher.running.snapshot import LARGE_BYTES, snapshot, visible

HOSTILE = (
    "a'; echo foo",
    "with space",
    'quote"d',
    "new\nline",
    "$(touch pwned)",
    "`id`",
    "-rf",
    "--delete",
    "#comment",
    ";semicolon",
    "* ?[x]",
    "ümlaut",
    "back\\slash",
    os.fsdecode(b"not-utf8-\xff\xfe"),
)


NOBODY = 65534
AS_NOBODY = f"""
import os, sys
from pathlib import Path
from launcher.errors import LocalFault
from launcher.running.snapshot import snapshot
if os.getuid() == 0:
    os.setgid({NOBODY})
    os.setuid({NOBODY})
try:
    snapshot(Path(sys.argv[1]))
except LocalFault as error:
    print(error.what, error.why)
"""


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def write(root: Path, *names: str, content: str = "x\n") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    root.mkdir()
    git(root, "init", "-q")
    return root


def test_tracked_and_new_files_are_taken_and_ignored_ones_are_not(repo: Path) -> None:
    write(repo, "tracked.py", "new.py", "big.bin", "sub/deep.py")
    write(repo, ".gitignore", content="*.bin\n")
    git(repo, "add", "tracked.py", "sub")
    assert snapshot(repo).files == (".gitignore", "new.py", "sub/deep.py", "tracked.py")


def test_a_tracked_file_is_taken_even_where_gitignore_names_it(repo: Path) -> None:
    write(repo, "vocab.bin")
    git(repo, "add", "vocab.bin")
    write(repo, ".gitignore", content="*.bin\n")
    assert "vocab.bin" in snapshot(repo).files


def test_a_sub_folder_of_a_repository_is_a_project_of_its_own(repo: Path) -> None:
    write(repo, "outside.py", "project/jobs.yaml", "project/src/a.py", "project/skip.log")
    write(repo, ".gitignore", content="*.log\n")
    assert snapshot(repo / "project").files == ("jobs.yaml", "src/a.py")


def test_a_folder_that_its_repository_ignores_is_taken_as_if_there_were_no_git(repo: Path) -> None:
    write(repo, ".gitignore", content="*\n")
    write(repo, "project/train.py", "project/__pycache__/train.pyc")
    found = snapshot(repo / "project")
    assert found.files == ("train.py",)
    assert "__pycache__/" in found.left_out


def test_a_file_deleted_but_still_tracked_is_not_part_of_the_code(repo: Path) -> None:
    write(repo, "gone.py", "kept.py")
    git(repo, "add", ".")
    (repo / "gone.py").unlink()
    assert snapshot(repo).files == ("kept.py",)


def test_submodules_and_nested_repositories_are_followed(repo: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "-q")
    write(library, "lib.py")
    git(library, "add", ".")
    git(library, "commit", "-qm", "one")
    git(repo, "submodule", "add", "-q", str(library), "vendor/lib")
    nested = repo / "nested"
    nested.mkdir()
    git(nested, "init", "-q")
    write(nested, "own.py")
    assert snapshot(repo).files == (".gitmodules", "nested/own.py", "vendor/lib/lib.py")


def test_a_submodule_that_is_not_checked_out_is_an_error_with_the_command_that_helps(
    repo: Path, tmp_path: Path
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "-q")
    git(library, "commit", "-qm", "one", "--allow-empty")
    git(repo, "submodule", "add", "-q", str(library), "lib")
    git(repo, "commit", "-qm", "with a submodule")
    git(repo, "submodule", "deinit", "-f", "lib")
    with pytest.raises(LocalFault, match="submodule `lib`") as raised:
        snapshot(repo)
    assert raised.value.hint == "git submodule update --init --recursive"


def test_local_runs_are_never_uploaded_even_when_git_tracks_them(repo: Path) -> None:
    write(repo, "runs/a/checkpoints/x.bin", "train.py", "src/runs/ok.py")
    git(repo, "add", ".")
    found = snapshot(repo)
    assert found.files == ("src/runs/ok.py", "train.py")
    assert found.left_out == ("runs/",)


@pytest.mark.parametrize("in_git", [True, False])
def test_hostile_names_are_just_names(tmp_path: Path, in_git: bool) -> None:
    root = tmp_path / 'it\'s a "project" $(x)\n'
    root.mkdir()
    if in_git:
        git(root, "init", "-q")
    for name in HOSTILE:
        write(root, f"{name}/{name}")
    assert set(snapshot(root).files) == {f"{name}/{name}" for name in HOSTILE}


def test_outside_git_what_no_host_needs_is_left_out_and_told(tmp_path: Path) -> None:
    write(tmp_path, "train.py", "data/corpus.txt", ".hidden", "sub/.venv/lib.py", "env/pyvenv.cfg", "env/bin/python")
    write(tmp_path, "__pycache__/a.pyc", "b.pyc", "node_modules/x.js", "runs/r/train.log", ".git-blame-ignore")
    found = snapshot(tmp_path)
    assert found.files == (".git-blame-ignore", ".hidden", "data/corpus.txt", "train.py")
    assert found.left_out == (".venv/", "__pycache__/", "b.pyc", "env/", "node_modules/", "runs/")


def test_links_are_links_and_one_that_leaves_the_project_is_told(repo: Path) -> None:
    write(repo, "real.py")
    (repo / "inside").symlink_to("real.py")
    (repo / "outside").symlink_to("/etc/hostname")
    (repo / "folder").symlink_to("..")
    found = snapshot(repo)
    assert found.files == ("folder", "inside", "outside", "real.py")
    assert [warning.split(" is ")[0] for warning in found.warnings] == ["`folder`", "`outside`"]


def test_a_socket_is_told_and_not_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "train.py")
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 104 bytes
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s.sock")
        found = snapshot(tmp_path)
    assert found.files == ("train.py",)
    assert found.warnings == ("`s.sock` is neither a file nor a link and cannot be uploaded",)


def test_what_looks_like_a_secret_is_told(repo: Path) -> None:
    write(repo, ".env", "deploy/id_ed25519")
    assert len(snapshot(repo).warnings) == 2


@pytest.mark.parametrize("in_git", [True, False])
@pytest.mark.parametrize("thing", ["file", "folder"])
def test_what_cannot_be_read_is_an_error(in_git: bool, thing: str) -> None:
    """In a child process without root's rights, because root may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if in_git:
            git(root, "init", "-q")
        write(root, "secret/file.py")
        for path in (root, *root.rglob("*")):
            if os.getuid() == 0:
                os.chown(path, NOBODY, NOBODY)
        (root / "secret" / "file.py" if thing == "file" else root / "secret").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, folder],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.getcwd(), "HOME": folder},
        )
        assert "secret" in done.stdout, done.stderr
        assert "ermission denied" in done.stdout
        (root / "secret").chmod(stat.S_IRWXU)


def test_the_fingerprint_changes_with_a_file_and_not_with_a_second_look(repo: Path) -> None:
    write(repo, "a.py", "b.py")
    first = snapshot(repo)
    assert snapshot(repo).fingerprint == first.fingerprint
    (repo / "a.py").chmod(0o755)
    assert snapshot(repo).fingerprint != first.fingerprint


def test_sizes_are_summed_the_largest_named_and_a_large_upload_is_told(repo: Path) -> None:
    for number in range(7):
        write(repo, f"{number}.txt", content="x" * number)
    with (repo / "huge.bin").open("wb") as file:
        file.truncate(LARGE_BYTES + 1)
    found = snapshot(repo)
    assert found.total_bytes == LARGE_BYTES + 1 + 21
    assert [file.name for file in found.largest] == ["huge.bin", "6.txt", "5.txt", "4.txt", "3.txt"]
    assert found.warnings[-1].startswith("191 MiB is much to upload")


def test_git_that_refuses_is_an_error_with_its_words(repo: Path) -> None:
    write(repo, ".git/config", content="[broken\n")
    with pytest.raises(LocalFault) as raised:
        snapshot(repo)
    assert "bad config" in raised.value.why


def test_a_hook_of_another_repository_does_not_mislead(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(repo, "mine.py")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere" / ".git"))
    assert snapshot(repo).files == ("mine.py",)


def test_a_name_is_shown_on_one_line() -> None:
    assert visible("a\nb\x1b[31mü" + os.fsdecode(b"\xff")) == "a\\nb\\x1b[31mü\\udcff"
