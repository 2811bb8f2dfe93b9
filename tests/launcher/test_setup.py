"""setup.sh on a real host: once for each set of inputs, the image's torch reused, whole or not there at all."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pip
import pytest

from launcher.errors import HostUnfit, SetupFailed
from launcher.hosts.setup import SetupInputs, run_setup, setup_inputs, trainer_requirements
from launcher.paths import REMOTE_ROOT, REMOTE_UPLOADS
from launcher.remote.ssh import SshTransport
from launcher.spec.jobs import SetupSpec
from tests.launcher.conftest import SshHost

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).resolve().parents[2]
DOUBLES = Path(__file__).resolve().parents[1] / "doubles"


def make_wheel(folder: Path, name: str, version: str, source: str = "", requires: str = "") -> None:
    """A wheel, as small as they come."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python environment with a `torch` that only says what it was built for: what rented machines come with."""
    folder = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").write_text(
        "import types\n__version__ = '2.9.1+cu130'\nversion = types.SimpleNamespace(cuda='13.0')\n"
        "cuda = types.SimpleNamespace(is_available=lambda: False)\n"
    )
    for name, version in (("torch", "2.9.1+cu130"), ("nvidia_cublas", "13.0.0"), ("toy_there", "1.0")):
        info = packages / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    os.symlink(Path(pip.__file__).parent, packages / "pip")  # as images have one
    return folder


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "toy_missing", "1.0", "VALUE = 1\n", requires="torch>=2.6")
    make_wheel(folder, "toy_missing", "2.0", "VALUE = 2\n")
    make_wheel(folder, "torch", "2.13.0", "raise RuntimeError('another torch was brought')\n")
    return folder


@dataclass
class Rig:
    """One host with an image, and what its setups said."""

    host: SshHost
    transport: SshTransport
    said: list[str] = field(default_factory=list)

    def set_up(self, inputs: SetupInputs, gpus: int = 0) -> Path:
        return self.host.home / run_setup(self.transport, inputs, gpus=gpus, say=self.said.append)

    def venv(self, inputs: SetupInputs) -> Path:
        return self.host.home / inputs.venv

    def python(self, inputs: SetupInputs, code: str) -> str:
        argv = [self.venv(inputs) / "bin" / "python", "-c", code]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def with_image(host: SshHost, image: Path, wheels: Path) -> None:
    """Give the host `image` as its image and `wheels` as its package index; pip installs."""
    settings = {
        "PATH": f"{image / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "UV_OFFLINE": "1",
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(wheels),
    }
    for name, value in settings.items():
        host.export(name, value)


@pytest.fixture
def rig(fresh_host: Callable[[], SshHost], image: Path, wheels: Path) -> Iterator[Rig]:
    host = fresh_host()
    with_image(host, image, wheels)
    transport = host.transport()
    yield Rig(host, transport)
    transport.close()


@pytest.fixture(params=["pip", "uv"])
def installing(request: pytest.FixtureRequest, rig: Rig) -> Rig:
    """The same, once with pip and once with uv."""
    if request.param == "uv":
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if uv is None:
            pytest.skip("uv is not installed here")
        (rig.host.folder / "uv").mkdir()
        (rig.host.folder / "uv" / "uv").symlink_to(uv)
        rig.host.put_first_on_path(rig.host.folder / "uv")
    return rig


TOY = SetupInputs(("torch>=2.6,<3", "toy_there"), ("toy_missing==1.0",))


def test_only_what_is_missing_is_installed_and_torch_is_the_images(installing: Rig, image: Path) -> None:
    rig = installing
    venv = rig.set_up(TOY)
    [packages] = venv.glob("lib/python*/site-packages")
    assert sorted(path.name for path in packages.glob("t*")) == ["toy_missing-1.0.dist-info", "toy_missing.py"]
    assert rig.python(TOY, "import torch; print(torch.__file__)").startswith(str(image))
    assert rig.python(TOY, "import toy_missing; print(toy_missing.VALUE)") == "1"
    assert "setup: missing: toy-missing" in rig.said


def test_unchanged_inputs_take_under_two_seconds(rig: Rig) -> None:
    rig.set_up(TOY)
    took = []
    for _ in range(3):  # the best of three: what else this machine does is not meant
        started = time.monotonic()
        rig.set_up(TOY)
        took.append(time.monotonic() - started)
    assert min(took) < 2
    assert rig.said[-3:] == ["setup: unchanged"] * 3


def test_other_inputs_make_another_environment(rig: Rig) -> None:
    newer = SetupInputs(TOY.requirements, ("toy_missing==2.0",))
    assert rig.set_up(TOY) != rig.set_up(newer)
    assert rig.python(TOY, "import toy_missing; print(toy_missing.VALUE)") == "1"
    assert rig.python(newer, "import toy_missing; print(toy_missing.VALUE)") == "2"


def test_an_image_that_has_everything_needs_no_installer(rig: Rig) -> None:
    inputs = SetupInputs(("torch>=2.6", "toy_there==1.0"))
    rig.set_up(inputs)
    assert "setup: the image has everything" in rig.said


def test_a_failed_installation_says_why_and_leaves_no_ready_environment(installing: Rig) -> None:
    rig = installing
    inputs = SetupInputs(("torch>=2.6",), ("no_such_package==1.0",))
    with pytest.raises(SetupFailed, match="set-up of") as raised:
        rig.set_up(inputs)
    assert "no-such-package" in raised.value.why.replace("_", "-")
    assert "setup.log" in raised.value.hint
    assert not (rig.venv(inputs) / ".gptops-ready").exists()


def test_a_setup_killed_halfway_is_made_anew(rig: Rig) -> None:
    (rig.host.home / "gptops" / "uploads" / "code").mkdir(parents=True)
    shell = ("echo half > $VIRTUAL_ENV/half", "[ -f ../go-on ] || kill -9 $PPID")
    inputs = SetupInputs(TOY.requirements, (), shell, "uploads/code")
    with pytest.raises(SetupFailed):
        rig.set_up(inputs)
    assert (rig.venv(inputs) / "half").exists()
    (rig.venv(inputs) / "of-the-first").write_text("")
    (rig.host.home / "gptops" / "uploads" / "go-on").write_text("")
    rig.set_up(inputs)
    assert not (rig.venv(inputs) / "of-the-first").exists()
    assert (rig.venv(inputs) / ".gptops-ready").exists()


def test_shell_lines_run_in_the_code_with_the_environment_first(rig: Rig) -> None:
    code = rig.host.home / REMOTE_UPLOADS / "my code"
    code.mkdir(parents=True)
    job = SetupSpec(shell=("command -v python > where", "pwd > here"))
    inputs = setup_inputs(job, REMOTE_UPLOADS / "my code")
    inputs = SetupInputs(TOY.requirements, inputs.extra, inputs.shell, inputs.code)
    venv = rig.set_up(inputs)
    assert (code / "where").read_text().strip() == str(venv / "bin" / "python")
    assert (code / "here").read_text().strip() == str(code)


def test_a_failing_shell_line_fails_the_setup(rig: Rig) -> None:
    (rig.host.home / REMOTE_UPLOADS / "code").mkdir(parents=True)
    inputs = SetupInputs(TOY.requirements, (), ("echo before", "false", "echo after"), "uploads/code")
    with pytest.raises(SetupFailed) as raised:
        rig.set_up(inputs)
    assert "before" in raised.value.why
    assert "after" not in raised.value.why


def test_two_setups_at_once_make_one_environment(rig: Rig) -> None:
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(rig.set_up, TOY) for _ in range(2)]
    assert both[0].result() == both[1].result()
    assert rig.said.count("setup: missing: toy-missing") == 1


def test_everything_it_says_is_kept_on_the_host(rig: Rig) -> None:
    rig.set_up(TOY)
    assert "setup: missing: toy-missing" in (rig.host.home / "gptops" / "logs" / "setup.log").read_text()


def test_a_driver_older_than_the_wheel_needs_is_refused(rig: Rig) -> None:
    rig.host.put_first_on_path(DOUBLES)
    (rig.host.home / "fake_gpus.json").write_text('[{"name": "NVIDIA H100", "driver_version": "525.60.13"}]')
    with pytest.raises(HostUnfit, match="driver is too old") as raised:
        rig.set_up(SetupInputs(("torch>=2.6",)), gpus=1)
    assert "525.60" in raised.value.why
    assert "580.65" in raised.value.why
    rig.set_up(SetupInputs(("torch>=2.6",)), gpus=0)
    with pytest.raises(HostUnfit, match="driver is too old"):
        rig.set_up(SetupInputs(("torch>=2.6",)), gpus=1)


def test_a_host_without_rsync_and_without_a_way_to_get_it_is_unfit(rig: Rig) -> None:
    rig.host.restrict_path_to(
        "sh", "mkdir", "tar", "cat", "date", "tee", "rm", "grep", "dirname", "env", "id", "python3"
    )
    with pytest.raises(HostUnfit, match="rsync is not installed") as raised:
        rig.set_up(TOY)
    assert "apt-get install -y rsync" in raised.value.hint


def test_a_host_without_python_is_unfit(rig: Rig) -> None:
    rig.host.export("GPTOPS_PYTHON", "no-such-python")
    with pytest.raises(HostUnfit, match=r"no Python 3.10 or newer"):
        rig.set_up(TOY)


# What it is made of


def test_the_requirements_are_those_of_the_extra() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("needs tomllib")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["trainer"]
    assert list(trainer_requirements()) == declared


def test_the_key_is_of_everything_that_counts_and_of_nothing_else() -> None:
    base = SetupInputs(("a",))
    same = [SetupInputs(("a",)), SetupInputs(("a",), code="uploads/x")]
    other = [
        SetupInputs(("b",)),
        SetupInputs(("a",), ("b",)),
        SetupInputs(("a",), (), ("b",)),
        SetupInputs(("a",), (), ("b",), "uploads/x"),
    ]
    assert {each.key for each in same} == {base.key}
    assert len({each.key for each in [base, *other]}) == 5
    assert base.venv == REMOTE_ROOT / "venvs" / base.key


@pytest.mark.slow
def test_the_real_requirements_are_met_by_this_python(ssh_host: SshHost, transport: SshTransport) -> None:
    """The very setup of the demo: torch, and everything else, as it is installed here."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed here")
    said: list[str] = []
    inputs = setup_inputs()
    venv = ssh_host.home / run_setup(transport, inputs, gpus=0, say=said.append)
    assert "setup: the image has everything" in said
    found = "from importlib.util import find_spec; print(find_spec('torch').origin)"
    seen = subprocess.run([str(venv / "bin" / "python"), "-c", found], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == importlib.util.find_spec("torch").origin  # type: ignore[union-attr]
