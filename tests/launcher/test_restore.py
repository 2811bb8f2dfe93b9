"""A checkpoint that is at home goes to a new run on a host: whole, verified there, with the curve up to its step."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest

from launcher.checkpoints.restore import adopt, metrics_up_to, newest_at_home, restore
from launcher.clock import SystemClock
from launcher.errors import HostUnfit, NotVerified, Unreachable
from launcher.paths import LocalRun
from launcher.remote.ssh import SshTransport
from tests.launcher.checkpoint_maker import silent, tree, write_checkpoint
from tests.launcher.conftest import SshHost
from trainer import manifest

FILES = {"model.safetensors": b"weights " * 999, "a folder's/state.json": b"{}"}


@pytest.fixture
def home(tmp_path: Path) -> LocalRun:
    run = LocalRun(tmp_path / "runs" / "old's $(touch evil)")
    for step in (2, 4):
        write_checkpoint(run.checkpoints, step, FILES)
    run.metrics.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 8)))
    return run


def there(host: SshHost, name: str) -> tuple[PurePosixPath, Path]:
    """A run's folder, as gptops names it and as it is on this machine."""
    root = PurePosixPath("gptops/restored") / name
    return root, host.home / root


def put(transport: SshTransport, checkpoint: Path, root: PurePosixPath) -> None:
    restore(transport, checkpoint, root, silent, SystemClock())


def test_every_byte_arrives_and_nothing_else(
    ssh_host: SshHost, transport: SshTransport, home: LocalRun, tmp_path: Path
) -> None:
    root, folder = there(ssh_host, tmp_path.name)
    put(transport, home.checkpoints / "step_00000004", root)
    assert tree(folder / "checkpoints") == {
        f"step_00000004/{name}": content for name, content in tree(home.checkpoints / "step_00000004").items()
    }
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    put(transport, home.checkpoints / "step_00000004", root)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_00000004"]


def test_a_damaged_one_at_home_is_not_sent(
    ssh_host: SshHost, transport: SshTransport, home: LocalRun, tmp_path: Path
) -> None:
    root, folder = there(ssh_host, tmp_path.name)
    (home.checkpoints / "step_00000004" / "model.safetensors").write_bytes(b"bit rot")
    with pytest.raises(NotVerified):
        put(transport, home.checkpoints / "step_00000004", root)
    assert not folder.exists()


class Meddling:
    """A transport whose transfers are not what was sent, or are cut, the first times."""

    def __init__(self, inner: SshTransport, folder: Path, *, times: int, cut: bool = False) -> None:
        self.inner, self.folder, self.times, self.cut = inner, folder, times, cut

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        return getattr(self.inner, name)

    def push(self, files, source, target, **options):  # type: ignore[no-untyped-def]
        meddle, self.times = self.times > 0, self.times - 1
        if meddle and self.cut:
            raise Unreachable("the connection broke", why="a test cut it")
        done = self.inner.push(files, source, target, **options)
        if meddle:
            for weights in self.folder.rglob("model.safetensors"):
                weights.write_bytes(b"damaged on the way")
        return done


class Hurried(SystemClock):
    def sleep(self, seconds: float) -> None:
        """Nobody waits in a test."""


@pytest.mark.parametrize("cut", [False, True])
def test_damage_and_cuts_on_the_way_are_repeated(
    ssh_host: SshHost, transport: SshTransport, home: LocalRun, tmp_path: Path, cut: bool
) -> None:
    root, folder = there(ssh_host, tmp_path.name)
    meddling = Meddling(transport, folder, times=1, cut=cut)
    restore(meddling, home.checkpoints / "step_00000004", root, silent, Hurried())
    assert manifest.verify(folder / "checkpoints" / "step_00000004").step == 4


def test_a_machine_that_damages_it_twice_is_unfit_and_has_no_checkpoint(
    ssh_host: SshHost, transport: SshTransport, home: LocalRun, tmp_path: Path
) -> None:
    root, folder = there(ssh_host, tmp_path.name)
    meddling = Meddling(transport, folder, times=9)
    with pytest.raises(HostUnfit, match="did not arrive whole"):
        restore(meddling, home.checkpoints / "step_00000004", root, silent, Hurried())
    assert manifest.checkpoints(folder / "checkpoints") == []


def test_the_newest_at_home_is_the_newest_whole_one_of_the_latest_run(home: LocalRun, tmp_path: Path) -> None:
    later = LocalRun(tmp_path / "runs" / "later")
    write_checkpoint(later.checkpoints, 4, FILES)
    assert newest_at_home([home, later]) == later.checkpoints / "step_00000004"
    (later.checkpoints / "step_00000004" / "model.safetensors").write_bytes(b"bit rot")
    assert newest_at_home([home, later]) == home.checkpoints / "step_00000004"
    (home.checkpoints / "step_00000004" / "MANIFEST.json").unlink()
    assert newest_at_home([home, later]) == home.checkpoints / "step_00000002"
    assert newest_at_home([LocalRun(tmp_path / "nothing")]) is None


def test_the_new_run_has_at_home_what_it_began_with(home: LocalRun, tmp_path: Path) -> None:
    new = LocalRun(tmp_path / "runs" / "new")
    for _ in range(2):
        adopt(home.checkpoints / "step_00000002", new)
    assert manifest.verify(new.checkpoints / "step_00000002").step == 2
    assert (new.checkpoints / "step_00000002" / "model.safetensors").stat().st_nlink == 2
    assert new.metrics.read_text() == metrics_up_to(home.metrics, 2)
    assert tree(home.checkpoints).keys() == {
        f"{manifest.step_name(step)}/{name}" for step in (2, 4) for name in (*FILES, "MANIFEST.json")
    }


def test_metrics_that_were_cut_in_the_middle_of_a_line_end_before_it(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert metrics_up_to(metrics, 9) == ""
    metrics.write_text('{"step": 1}\nnot json\n{"step": 2}\n{"step": 3, "lo')
    assert metrics_up_to(metrics, 9) == '{"step": 1}\n{"step": 2}\n'
