"""The name under which Lambda knows our SSH key: a launch takes names, and exactly one.

The key is looked for by what it is, not by what it is called, and registered once.
Two processes at the same time end with the same key.
"""

from __future__ import annotations

import hashlib
from typing import Any

from launcher.errors import ProviderError
from launcher.providers.answer import Refused
from launcher.providers.fields import Fields
from launcher.providers.http import Api

PATH = "/ssh-keys"


def registered_name(api: Api, public_key: str) -> str:
    """The name of the key at Lambda. Registers it where nobody has yet."""
    known = _known_as(_keys(api), public_key)
    if known:
        return known
    own = key_name(public_key)
    try:
        made = api.call("POST", PATH, endpoint="ssh-keys", body={"name": own, "public_key": public_key})
    except Refused as error:
        # Another process may have been faster with the same name.
        known = _known_as(_keys(api), public_key)
        if known is None:
            raise ProviderError(
                "`lambda_cloud` does not register our SSH key",
                why=error.answer.summary,
                hint="remove an old one: https://cloud.lambda.ai/ssh-keys",
            ) from error
        return known
    return Fields.of(Fields.of(made, "lambda's answer").row.get("data"), "lambda's SSH key").text("name", own)


def key_name(public_key: str) -> str:
    """`gptops-` and a fingerprint: the same for the same key on every machine it is used from."""
    return "gptops-" + hashlib.sha256(" ".join(_blob(public_key)).encode()).hexdigest()[:16]


def _keys(api: Api) -> list[Fields]:
    answer = Fields.of(api.call("GET", PATH, endpoint="ssh-keys"), "lambda's answer").row.get("data")
    if not isinstance(answer, list):
        raise ProviderError("lambda's list of SSH keys is not readable", why="it has no `data`")
    return [Fields.of(row, "lambda's SSH key") for row in answer]


def _known_as(keys: list[Fields], public_key: str) -> str | None:
    same = [key.text("name") for key in keys if _blob(key.text("public_key", "")) == _blob(public_key)]
    return same[0] if same else None


def _blob(line: str) -> list[Any]:
    """Type and key, without the comment."""
    return line.split()[:2]
