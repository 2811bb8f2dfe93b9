"""A machine somebody owns, as the provider `ssh` needs to know it."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.remote.host import Address


@dataclass(frozen=True)
class StaticHost:
    """One entry under `hosts:` in jobs.yaml, or what `--host user@name:port` says."""

    address: Address
    identity_file: str | None = None
    """The user's own key for it; None means gptops' key."""
    gpus: int | None = None
    """None: not said; counted when the host answers."""
    gpu_name: str = ""
