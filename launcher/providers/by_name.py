"""The provider behind a word in jobs.yaml, imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from launcher.clock import Clock, SystemClock
from launcher.errors import UsageError
from launcher.paths import StatePaths
from launcher.providers.base import Provider
from launcher.providers.networks import Networks
from launcher.providers.retrying import Retrying
from launcher.providers.static_host import StaticHost

AVAILABLE = ("local", "ssh", "vast", "runpod", "lambda_cloud")
"""What this version has; jobs.yaml may name others, which come later."""


NETWORKED = ("vast", "runpod")
"""Whose machines of one cluster can be given a private network."""
_WHOLE = ("runpod",)
"""Whose clusters are made and ended as a whole."""


def ends_together(name: str, group_name: str) -> bool:
    """Whether a machine of this rented group ends with all the others of it, and never alone."""
    return bool(group_name) and name in _WHOLE


def ends_as(provider: str, name: str, group_name: str) -> str:
    """What `gptops down` is told to end a machine: its own name, or its group's where that ends as a whole."""
    return group_name if ends_together(provider, group_name) else name


def open_networks(name: str, clock: Clock) -> Networks:
    """The private networks at the provider called `name`. Asks nobody. Raises UsageError where it has none."""
    if name == "vast":
        from launcher.providers.vast_overlays import open_overlays

        return open_overlays(clock)
    if name == "runpod":
        from launcher.providers.runpod_clusters import open_clusters

        return open_clusters(clock)
    raise UsageError(f"`{name}` makes no private networks", why=f"{', '.join(NETWORKED)} do", hint="docs/nodes.md")


def open_provider(
    name: str, state: StatePaths, *, clock: Clock | None = None, hosts: Mapping[str, StaticHost] | None = None
) -> Provider:
    """The provider called `name`; clouds retry what may be retried. `hosts`: the static machines that `ssh` may offer.

    Asks nobody, and needs no key yet: the first question does."""
    clock = clock or SystemClock()
    if name == "local":
        from launcher.providers.local import LocalProvider  # late: only what is asked for

        return LocalProvider(state.provider("local"))
    if name == "ssh":
        from launcher.providers.ssh import SshProvider

        return SshProvider(state.provider("ssh"), hosts or {})
    if name == "vast":
        from launcher.providers.vast import open_vast

        return Retrying(open_vast(clock), clock)
    if name == "runpod":
        from launcher.providers.runpod import open_runpod

        return Retrying(open_runpod(clock), clock)
    if name == "lambda_cloud":
        from launcher.providers.lambda_cloud import open_lambda_cloud

        return Retrying(open_lambda_cloud(clock), clock)
    raise UsageError(
        f"this gptops has no provider `{name}`",
        why=f"it has: {', '.join(AVAILABLE)}",
        hint="write one of these as `provider` in jobs.yaml, or use --provider",
    )
