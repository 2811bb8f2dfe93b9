"""`vast`: machines of the Vast.ai market, over its REST API.

Translation only: each call asks once and returns. Written after the official
client's source and the vendor's API description; docs/vast.md says what was never
run against the live service.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from launcher.clock import Clock
from launcher.crash import crashpoint
from launcher.errors import ProviderDown, ProviderError
from launcher.providers.answer import Refused, key_refused
from launcher.providers.api_keys import api_key, is_loopback
from launcher.providers.base import CreateRequest, Instance, Offer, OffSwitch, Wanted
from launcher.providers.http import Api, require_success
from launcher.providers.vast_create import create_body, created
from launcher.providers.vast_instances import instance_of
from launcher.providers.vast_offers import offers_of, search_body

HOME = "https://console.vast.ai"
INSTANCES_PAGE = "https://cloud.vast.ai/instances/"
PAUSES = {"search": 6.0, "create": 4.5, "list": 1.0, "show": 2.0, "destroy": 3.0, "ssh": 1.0, "overlay": 1.0}
"""Least seconds between two questions, as the API description publishes them; search: ten a minute. For overlays it
publishes none: as for lists."""
PAGE_ROWS = 25
MOST_PAGES = 400

_NO_KEY = ("invalid user key", "auth_error", "2fa")
_ABSENT = ("no_such_instance", "not_found", "not found", "no such instance")


def open_vast(clock: Clock) -> VastProvider:
    """Vast, or what $VAST_URL names: the official client's own variable. Reads the key at the first question."""
    return VastProvider(vast_api(clock))


def vast_api(clock: Clock) -> Api:
    """Its API, asked no faster than it allows."""
    url = os.environ.get("VAST_URL") or HOME
    # The pauses are those of the vendor; a double on this machine has its own, and says 429.
    pauses: Mapping[str, float] = {} if is_loopback(urlsplit(url).hostname or "") else PAUSES
    return Api(url, lambda: api_key("vast"), provider="vast", clock=clock, pauses=pauses)


class VastProvider:
    """Speaks Vast's API; keeps nothing."""

    def __init__(self, api: Api) -> None:
        self._api = api

    @property
    def name(self) -> str:
        """The word in jobs.yaml."""
        return "vast"

    @property
    def off_switch(self) -> OffSwitch:
        """Each machine gets a key that may end it and nothing else."""
        return OffSwitch.VAST

    def console_url(self, instance_id: str) -> str:
        """There is one page for all of them."""
        return INSTANCES_PAGE

    def offers(self, wanted: Wanted) -> list[Offer]:
        """The market's rows with the right number of GPUs, as bids or on demand, priced with the wanted disk."""
        answer = self._call("POST", "/api/v0/bundles/", endpoint="search", body=search_body(wanted))
        return offers_of(require_success(answer, "vast", "search").get("offers"), wanted)

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        """Open it; a spot machine with the bid as its price, always."""
        body = create_body(offer, request)
        path = f"/api/v0/asks/{_checked(offer.offer_id)}/"
        answer = self._api.ask("PUT", path, endpoint="create", body=body, may_bill=True)
        crashpoint("vast:asked")
        return created(answer, offer, request)

    def authorize(self, instance_id: str, public_key: str) -> None:
        """Attach the key to this instance. Keys of the account may or may not reach machines, by different sources."""
        path = f"/api/v0/instances/{_checked(instance_id)}/ssh/"
        try:
            answer = self._call("POST", path, endpoint="ssh", body={"ssh_key": public_key})
        except Refused as refused:
            if refused.answer.status < 500 and refused.says("already"):
                return
            raise
        if not _says_already(answer):
            require_success(answer, "vast", "attaching the SSH key")

    def get(self, instance_id: str) -> Instance | None:
        """As it is now. `instances: null` and a 404 of the API's own are absence; a gateway's 404 is none."""
        path = f"/api/v0/instances/{_checked(instance_id)}/"
        try:
            answer = self._call("GET", path, endpoint="show", query={"owner": "me"})
        except Refused as refused:
            if _is_absent(refused):
                return None
            raise
        fields = require_success(answer, "vast", "show")
        if "instances" not in fields:
            raise ProviderDown("`vast` answered nonsense", why=f"GET {path}: no `instances` in it", hint="try again")
        return None if fields["instances"] is None else instance_of(fields["instances"])

    def labelled(self, prefix: str) -> list[Instance]:
        """All instances of the account, page by page, those with the label picked here."""
        try:
            rows = self._pages()
        except Refused as refused:
            if refused.answer.status not in (400, 404, 405, 410):
                raise
            rows = self._old_list()
        found = [instance_of(row) for row in rows if not _is_anothers(row, prefix)]
        return [instance for instance in found if instance.label.startswith(prefix)]

    def destroy(self, instance_id: str) -> None:
        """End it. Already gone is success; `"success": false` is not, whatever the status."""
        path = f"/api/v0/instances/{_checked(instance_id)}/"
        try:
            answer = self._call("DELETE", path, endpoint="destroy", body={})
        except Refused as refused:
            if _is_absent(refused):
                return
            raise
        if not _says_absent(answer):
            require_success(answer, "vast", f"DELETE {path}")

    def _pages(self) -> list[Any]:
        rows: list[Any] = []
        token: str | None = None
        for _ in range(MOST_PAGES):
            query = {"limit": str(PAGE_ROWS), "select_filters": "{}", "order_by": json.dumps([_BY_ID])}
            if token is not None:
                query["after_token"] = token
            answer = self._call("GET", "/api/v1/instances/", endpoint="list", query=query)
            fields = require_success(answer, "vast", "list")
            rows += _rows(fields)
            following = fields.get("next_token")
            if not following:
                return rows
            if not isinstance(following, str) or following == token:
                break
            token = following
        raise ProviderError("`vast` gave a list without an end", why=f"after {len(rows)} rows", hint="gptops gc")

    def _old_list(self) -> list[Any]:
        answer = self._call("GET", "/api/v0/instances/", endpoint="list", query={"owner": "me"})
        return _rows(require_success(answer, "vast", "list"))

    def _call(self, method: str, path: str, *, endpoint: str, **more: Any) -> Any:
        try:
            return self._api.call(method, path, endpoint=endpoint, **more)
        except Refused as refused:
            if refused.says(*_NO_KEY):  # search answers 404 for it
                raise key_refused(refused.answer) from refused
            raise


_BY_ID = {"col": "id", "dir": "asc"}


def _checked(number: str) -> str:
    """Vast's ids are whole numbers; anything else would make another address of the path."""
    if not re.fullmatch(r"[0-9]{1,19}", number):
        raise ProviderError(f"{number!r} is no id of `vast`", hint="gptops ps")
    return number


def _rows(fields: Mapping[str, Any]) -> list[Any]:
    """A list, even an empty one. Null is not: it would pass for the proof that nothing is open."""
    rows = fields.get("instances")
    if not isinstance(rows, list):
        raise ProviderDown("`vast` answered nonsense", why="the list of instances is no list", hint="try again")
    return rows


def _is_anothers(row: Any, prefix: str) -> bool:
    """Surely not asked for: what else stands in such a row need not be readable."""
    label = row.get("label") if isinstance(row, dict) else None
    return isinstance(label, str) and not label.strip().startswith(prefix)


def _is_absent(refused: Refused) -> bool:
    """The API itself says that there is no such instance. A page of a gateway in between says nothing about it."""
    spoke = bool(refused.answer.fields)
    return spoke and (refused.answer.status in (404, 410) or refused.says(*_ABSENT))


def _says_absent(answer: Any) -> bool:
    return isinstance(answer, dict) and answer.get("success") is False and "no_such_instance" in json.dumps(answer)


def _says_already(answer: Any) -> bool:
    return isinstance(answer, dict) and answer.get("success") is False and "already" in json.dumps(answer).lower()
