"""What a machine's image brings, for setup.sh: its Python, its torch, its packages, its driver. Standard library alone.

python image.py describe             one line: python, torch; fails where this Python is too old
python image.py share VENV           let VENV see the packages of this Python, where that is an environment itself
python image.py plan FOLDER          names what FOLDER's requirements lack; writes what an installer must know
python image.py cuda GPUS            whether torch can use the GPUs; fails, and says why, where GPUS are wanted
python image.py locked FILE CMD...   become CMD, holding FILE's lock
"""

# ruff: noqa: T201 - its output is for setup.sh

import fcntl
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

OLDEST_PYTHON = (3, 10)
TORCH_FAMILY = re.compile(r"(torch|torchvision|torchaudio|triton|pytorch-triton.*|nvidia-.*|cuda-.*)$")
"""What belongs to one build of torch and is never mixed with another's."""
OLDEST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
"""By CUDA's major version, which is what binds a wheel to a driver:
https://docs.nvidia.com/deploy/cuda-compatibility/ (minor version compatibility)."""


def describe():
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(1)
    print(f"python={sys.version.split()[0]} torch={installed('torch') or 'none'}")


def share(venv):
    """`--system-site-packages` shows the packages of the base Python; an environment in between needs a path file."""
    if sys.prefix == sys.base_prefix:
        return
    [target] = Path(venv).glob("lib/python*/site-packages")
    folders = [folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]
    (target / "image.pth").write_text("".join(folder + "\n" for folder in folders))


def plan(folder):
    """Print the missing requirements; write constraints.image.txt and overrides.image.txt into `folder`."""
    folder = Path(folder)
    requirements = lines(folder / "requirements.txt")
    extra = lines(folder / "extra.txt")
    reused = reused_torch(requirements)
    theirs = {name_of(line) for line in extra}
    constraints = [
        line
        for line in lines(folder / "constraints.txt")
        if name_of(line) not in theirs and not (reused and TORCH_FAMILY.match(name_of(line)))
    ]
    family = {name_of(name): version for name, version in all_installed() if TORCH_FAMILY.match(name_of(name))}
    pins = [f"{name}=={version}" for name, version in sorted(family.items())] if reused else []
    (folder / "constraints.image.txt").write_text("".join(line + "\n" for line in constraints + pins))
    absent, fine = judged(requirements + extra, constraints)
    # uv does not look at the image. A marker that is never true takes a package out of what it would bring.
    never = sorted((fine | set(family if reused else ())) - absent)
    (folder / "overrides.image.txt").write_text("".join(f"{name} ; python_version < '3'\n" for name in never))
    for name in sorted(absent):
        print(name)


def cuda(gpus):
    import torch

    if torch.cuda.is_available():
        print("cuda=yes")
        return
    print("cuda=no")
    driver = driver_version()
    wheel = torch.version.cuda
    needed = OLDEST_DRIVER.get(int(wheel.split(".")[0])) if wheel else None
    if driver and needed and driver < needed:
        unfit(
            gpus,
            "the host's NVIDIA driver is too old for its torch",
            f"driver {shown(driver)}, and torch {torch.__version__} (CUDA {wheel}) needs {shown(needed)} or newer",
            f"choose an image whose torch was built for an older CUDA, or a host with driver {needed[0]}",
        )
    elif not wheel:
        unfit(
            gpus,
            "the image's torch cannot use GPUs",
            f"torch {torch.__version__} is a CPU build",
            "choose a CUDA image",
        )
    else:
        why = f"torch {torch.__version__} (CUDA {wheel}), driver {shown(driver) if driver else 'none: no nvidia-smi'}"
        unfit(gpus, "torch finds no GPU on the host", why, "gptops test-remote")


def locked(path, *command):
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("setup: another setup works on this machine; waiting for it", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.set_inheritable(lock, True)
    os.execvp(command[0], command)


def unfit(gpus, what, why, hint):
    if int(gpus) > 0:
        print(f"error: {what}\nwhy: {why}\nhint: {hint}")
        sys.exit(69)


def shown(driver):
    return ".".join(map(str, driver))


def driver_version():
    """(580, 65) where nvidia-smi answers, else None."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        asked = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"(\d+)\.(\d+)", asked.stdout)
    return (int(found[1]), int(found[2])) if found and asked.returncode == 0 else None


def reused_torch(requirements):
    """Whether the image's torch will do. Where it cannot be judged, another one is not brought."""
    version = installed("torch")
    wanted = next((line for line in requirements if name_of(line) == "torch"), None)
    if version is None or wanted is None:
        return version is not None
    parser = requirement_parser()
    return parser is None or parser(wanted).specifier.contains(version, prereleases=True)


def judged(requirements, constraints):
    """Names that are absent or there in another version than wanted, dependencies included; and names that are fine."""
    parser = requirement_parser()
    if parser is None:
        return {name_of(line) for line in requirements}, set()
    pins = {name_of(line): parsed for line in constraints for parsed in [parser(line)] if applies(parsed, "")}
    fine = {name for name, pin in pins.items() if there(pin, pin)}
    # An option (--index-url ...) or an address is the installer's business: let it decide.
    if any(line.startswith("-") or "://" in line for line in requirements):
        return {"what-the-job-adds"}, fine
    absent, seen, queue = set(), set(), [(parser(line), "") for line in requirements]
    while queue:
        wanted, extra = queue.pop()
        if not applies(wanted, extra):
            continue
        name, about = name_of(wanted.name), (name_of(wanted.name), tuple(sorted(wanted.extras)))
        if not there(wanted, pins.get(name)):
            absent.add(name)
        elif about not in seen:
            seen.add(about)
            fine.add(name)
            below = [parser(line) for line in importlib.metadata.requires(wanted.name) or []]
            queue += [(each, chosen) for each in below for chosen in (wanted.extras or {""})]
    return absent, fine


def there(wanted, pin):
    version = installed(wanted.name)
    if version is None or not wanted.specifier.contains(version, prereleases=True):
        return False
    return pin is None or pin.specifier.contains(version, prereleases=True)


def applies(requirement, extra):
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def requirement_parser():
    """`packaging`'s, or the one that pip carries."""
    for module in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        try:
            return importlib.import_module(module).Requirement
        except ImportError:
            continue
    return None


def installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def all_installed():
    return [
        (each.metadata["Name"], each.version) for each in importlib.metadata.distributions() if each.metadata["Name"]
    ]


def name_of(requirement):
    """The normalised name a requirement begins with; "" for an option."""
    found = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""


def lines(path):
    return [
        line.strip() for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]


if __name__ == "__main__":
    {"describe": describe, "share": share, "plan": plan, "cuda": cuda, "locked": locked}[sys.argv[1]](*sys.argv[2:])
