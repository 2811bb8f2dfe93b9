"""The GPUs that are really in a machine, by its own nvidia-smi: asked before anything is installed on it."""

from __future__ import annotations

import re

from launcher.commands import hosts as commands
from launcher.errors import HostUnfit
from launcher.gpu_models import is_one_of
from launcher.hosts.preflight_checks import MIN_DRIVER
from launcher.providers.base import Wanted
from launcher.remote.transport import Transport


def require_gpus(transport: Transport, wanted: Wanted) -> list[str]:
    """The models of the GPUs that are really there. Raises HostUnfit where they are not those that were asked for."""
    answer = transport.run(commands.gpu_names())
    name = transport.host.name
    if answer.exit_code != 0:
        why = (answer.stderr or answer.stdout).strip().splitlines()
        raise HostUnfit(f"`{name}` shows no GPUs", why=why[0] if why else "nvidia-smi failed")
    models = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    fitting = [model for model in models if is_one_of(model, wanted.gpu_names)]
    if len(fitting) < wanted.gpus:
        asked = f"{wanted.gpus} x {' or '.join(wanted.gpu_names) or 'any GPU'}"
        raise HostUnfit(
            f"`{name}` has not the GPUs that were asked for", why=f"asked: {asked}; there: {_counted(models)}"
        )
    return models


def require_driver(transport: Transport, min_cuda: float | None) -> None:
    """Raises HostUnfit where the driver cannot run wheels built for this CUDA. A driver that does not tell passes:
    setup.sh looks again, with the torch itself."""
    least = MIN_DRIVER.get(int(min_cuda)) if min_cuda else None
    answer = transport.run(commands.drivers())
    found = re.match(r"\d+(\.\d+)+", answer.stdout.strip()) if answer.exit_code == 0 else None
    if least is None or found is None:
        return
    if tuple(int(part) for part in found[0].split(".")) < least:
        raise HostUnfit(
            f"the NVIDIA driver of `{transport.host.name}` is too old",
            why=f"it is {found[0]}; a torch built for CUDA {min_cuda:g} needs {'.'.join(map(str, least))} or newer",
            hint="gptops up takes another; or choose an image whose torch was built for an older CUDA",
        )


def _counted(models: list[str]) -> str:
    return ", ".join(f"{models.count(model)} x {model}" for model in dict.fromkeys(models)) or "none"
