"""Whether the clouds would let us in: each one's API key, where it lies, who else can read it.

Nobody is asked, unless `online`: then one question that only reads goes to each
cloud that there is a key for. A key is never shown.
"""

from __future__ import annotations

from dataclasses import replace

from launcher.clock import Clock
from launcher.errors import KeyRefused, ProviderError
from launcher.hosts.preflight_checks import Check, Verdict
from launcher.paths import StatePaths
from launcher.providers.api_keys import SOURCES, ApiKey, NoKey, api_key, where_to_get
from launcher.providers.by_name import open_provider
from launcher.providers.retrying import Retrying

OURS = "gptops:"
"""How every label of ours begins."""


def key_checks(state: StatePaths, clock: Clock, *, online: bool) -> list[Check]:
    """One check for each cloud. Where none of them has a key, that is worth a warning: nothing can be rented."""
    found = {provider: _key(provider) for provider in SOURCES}
    nowhere = all(key is None for key in found.values())
    return [_checked(provider, key, state, clock, online, nowhere) for provider, key in found.items()]


def _key(provider: str) -> ApiKey | KeyRefused | None:
    """The key, what is wrong with it, or None where there is none."""
    try:
        return api_key(provider)
    except NoKey:
        return None
    except KeyRefused as error:
        return error


def _checked(
    provider: str, key: ApiKey | KeyRefused | None, state: StatePaths, clock: Clock, online: bool, nowhere: bool
) -> Check:
    if key is None:
        verdict = Verdict.WARN if nowhere else Verdict.PASS
        return Check(provider, verdict, "no API key, so nothing can be rented there", where_to_get(provider))
    if isinstance(key, KeyRefused):
        return Check(provider, Verdict.FAIL, f"{key.what}: {key.why}", key.hint)
    offline = _offline(key)
    return _asked(offline, state, clock) if online else offline


def _offline(key: ApiKey) -> Check:
    found = f"API key in {key.origin}"
    if key.readable_by_others:
        return Check(key.provider, Verdict.WARN, f"{found}, which others may read", f"chmod 600 '{key.file}'")
    return Check(key.provider, Verdict.PASS, found)


def _asked(offline: Check, state: StatePaths, clock: Clock) -> Check:
    """The same, with what the cloud says. That it lets us look does not prove that it lets us rent."""
    cloud = open_provider(offline.name, state, clock=clock)
    if isinstance(cloud, Retrying):
        cloud = cloud.provider  # asked once: who looks whether it works does not want to wait until it does
    try:
        ours = cloud.labelled(OURS)
    except KeyRefused as error:
        return Check(offline.name, Verdict.FAIL, f"{offline.found}: {error.what}: {error.why}", error.hint)
    except ProviderError as error:
        why = f"{offline.found}; whether it is taken is not known: {error.what}: {error.why}"
        return Check(offline.name, Verdict.WARN, why, error.hint)
    return replace(offline, found=f"{offline.found}, taken; machines of gptops there: {len(ours)}")
