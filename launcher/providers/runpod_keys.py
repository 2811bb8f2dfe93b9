"""The SSH keys of a RunPod account, where a PUT replaces them all.

So it is: read all, add ours at the end, write all, and look that none was lost on
the way. Where ours stands there already, nothing is written.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from launcher.errors import KeyRefused, ProviderError
from launcher.providers.answer import Refused
from launcher.providers.fields import Fields
from launcher.providers.http import Api

PATH = "/account/ssh-keys"


def register_key(api: Api, public_key: str) -> None:
    """Let pods that are made from now on know this key. Every other key stays as it is written."""
    before = _keys(api.call("GET", PATH, endpoint="read"))
    if any(_same(each, public_key) for each in before):
        return
    after = _keys(api.call("PUT", PATH, endpoint="write", body={"keys": [*before, public_key]}))
    lost = [each for each in before if not any(_same(each, kept) for kept in after)]
    if lost:
        raise ProviderError(
            "`runpod` kept only some of the SSH keys of the account",
            why=f"it lost {', '.join(each.split()[-1] for each in lost)}",
            hint="look at them: https://console.runpod.io/user/settings",
        )


def try_register(api: Api, public_key: str) -> None:
    """The same where this API key may do it. What creates a pod carries the key too, which v2 documents as enough; one
    that may not even create is refused in a moment."""
    with suppress(Refused, KeyRefused):
        register_key(api, public_key)


def _keys(answer: Any) -> list[str]:
    """Raises ProviderError for anything but a list of lines: what was not read whole must not be written back."""
    rows = Fields.of(answer, "runpod's list of SSH keys").row.get("keys")
    if not isinstance(rows, list) or not all(isinstance(row, str) for row in rows):
        raise ProviderError("runpod's list of SSH keys is not readable", why="`keys` is no list of lines")
    return rows


def _same(one: str, other: str) -> bool:
    """The same key, whatever its comment."""
    return one.split()[:2] == other.split()[:2]
