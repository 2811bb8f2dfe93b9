"""Vast's overlay networks: a private LAN for instances on machines of one physical cluster.

Written after the official client's source (vastai 1.9.1, whose commands for them are switched off while its library has
them) and the vendor's page on training with NCCL. An instance joins by `"-n NAME"` in the `env` of its create call.
"""

from __future__ import annotations

import re
from typing import Any

from launcher.clock import Clock
from launcher.errors import ProviderDown, ProviderError
from launcher.providers.answer import Refused, key_refused
from launcher.providers.fields import Fields
from launcher.providers.http import Api, require_success
from launcher.providers.networks import Machines, Network
from launcher.providers.vast import vast_api

PATH = "/api/v0/overlay/"
_ABSENT = ("not_found", "not found", "no_such_overlay", "no such overlay", "does not exist")


def open_overlays(clock: Clock) -> VastOverlays:
    """At Vast, or at what $VAST_URL names. Reads the key at the first question."""
    return VastOverlays(vast_api(clock))


class VastOverlays:
    """Speaks Vast's API; keeps nothing."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def create(self, cluster_id: str, name: str, machines: Machines = ()) -> None:
        """The answer names no id: the list does. Its machines are created into it one by one."""
        body = {"cluster_id": _whole(cluster_id), "name": name}
        require_success(self._call("POST", body), "vast", f"making the overlay {name}")

    def named(self, prefix: str) -> list[Network]:
        """All overlays of the account, those with the name picked here."""
        rows = self._call("GET")
        if not isinstance(rows, list):
            # Null or an object would pass for the proof that nothing is left.
            raise ProviderDown("`vast` answered nonsense", why="the list of overlays is no list", hint="try again")
        return [network for network in map(_network, rows) if network.name.startswith(prefix)]

    def delete(self, network_id: str) -> None:
        """The vendor says that it removes the instances inside, too: the caller has seen them end before."""
        try:
            answer = self._call("DELETE", {"overlay_id": _whole(network_id)})
        except Refused as refused:
            if refused.answer.fields and (refused.answer.status in (404, 410) or refused.says(*_ABSENT)):
                return
            raise
        if answer is not None:
            require_success(answer, "vast", f"deleting the overlay {network_id}")

    def _call(self, method: str, body: Any = None) -> Any:
        try:
            return self._api.call(method, PATH, endpoint="overlay", body=body)
        except Refused as refused:
            if refused.says("invalid user key", "auth_error"):
                raise key_refused(refused.answer) from refused
            raise


def _network(value: Any) -> Network:
    row = Fields.of(value, "an overlay of `vast`")
    return Network(
        str(row.whole("overlay_id")), row.text("name", ""), row.text("cluster_id", ""), row.text("internal_subnet", "")
    )


def _whole(number: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", number):
        raise ProviderError(f"{number!r} is no id of `vast`", hint="gptops offers --provider vast --nodes 2")
    return int(number)
