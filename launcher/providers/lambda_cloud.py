"""`lambda_cloud`: on-demand machines of Lambda (docs-api.lambda.ai, version 1.10).

Whole virtual machines with Lambda's own image, logged in to as `ubuntu`; a job's
container image plays no part. There is no stop and no spot. Nothing in this module
was run against the live service.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from launcher.clock import Clock
from launcher.errors import MayHaveCreated, NoOffer, OfferGone, ProviderError
from launcher.providers.answer import Refused
from launcher.providers.api_keys import api_key, is_loopback
from launcher.providers.base import CreateRequest, Instance, Offer, OffSwitch, Status, Wanted
from launcher.providers.fields import Fields
from launcher.providers.http import Api
from launcher.providers.lambda_cloud_keys import registered_name
from launcher.providers.lambda_cloud_names import label_of, name_fields
from launcher.providers.lambda_cloud_types import offers_of, price_per_hour, type_and_region
from launcher.remote.host import Address

API = "https://cloud.lambda.ai/api/v1"
CONSOLE = "https://cloud.lambda.ai/instances"
USER, PORT = "ubuntu", 22
PAUSES = {"instance-types": 1.0, "instances": 1.0, "ssh-keys": 1.0, "terminate": 1.0, "launch": 12.0}
"""One request a second in general, five launches a minute (the API's own description)."""

_STATUS = {
    "booting": Status.STARTING,
    "active": Status.RUNNING,
    "unhealthy": Status.SILENT,
    "terminating": Status.STOPPED,
    "preempted": Status.PREEMPTED,
}
GONE = "terminated"


def open_lambda_cloud(clock: Clock) -> LambdaCloudProvider:
    """The vendor, or what $LAMBDA_API_URL names. Reads the key at the first question."""
    url = os.environ.get("LAMBDA_API_URL") or API
    # The pauses are those of the vendor; a double on this machine has its own, and says 429.
    pauses: Mapping[str, float] = {} if is_loopback(urlsplit(url).hostname or "") else PAUSES
    return LambdaCloudProvider(
        Api(url, lambda: api_key("lambda_cloud"), provider="lambda_cloud", clock=clock, pauses=pauses)
    )


class LambdaCloudProvider:
    """One account; keeps nothing."""

    def __init__(self, api: Api) -> None:
        self._api = api

    @property
    def name(self) -> str:
        """The word in jobs.yaml."""
        return "lambda_cloud"

    @property
    def off_switch(self) -> OffSwitch:
        """Lambda puts no key on the machine, and a machine that is shut down from within goes on billing."""
        return OffSwitch.NONE

    def console_url(self, instance_id: str) -> str:
        """The page with all instances of the account."""
        return CONSOLE

    def offers(self, wanted: Wanted) -> list[Offer]:
        """Each instance type with the wanted number of GPUs, in each region with capacity."""
        _refuse_spot(wanted.spot or wanted.bid is not None)
        found = offers_of(self._data("GET", "/instance-types", "instance-types"), wanted)
        return sorted(found, key=lambda offer: (offer.price_per_hour, offer.offer_id))

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        """Launch one machine. The answer knows its id and nothing else yet."""
        _refuse_spot(offer.spot or request.bid is not None)
        kind, region = type_and_region(offer)
        named = name_fields(request.label)
        key_name = registered_name(self._api, request.public_key)
        body = {
            "region_name": region,
            "instance_type_name": kind,
            "ssh_key_names": [key_name],
            "file_system_names": [],
            "quantity": 1,
            **named,
        }
        try:
            answer = self._api.call("POST", "/instance-operations/launch", endpoint="launch", body=body, may_bill=True)
        except Refused as error:
            raise _launch_refused(offer, error) from error
        return Instance(_launched_id(answer), request.label, Status.STARTING, (), offer.price_per_hour, gpus=offer.gpus)

    def authorize(self, instance_id: str, public_key: str) -> None:
        """The launch has let it in: a machine's keys are fixed when it is made."""

    def get(self, instance_id: str) -> Instance | None:
        """The machine as it is now; None when it is terminated, which Lambda may remember for a while."""
        try:
            return _instance(self._data("GET", f"/instances/{_checked(instance_id)}", "instances"))
        except Refused as error:
            if error.answer.status == 404:
                return None
            raise

    def labelled(self, prefix: str) -> list[Instance]:
        """All machines with such a label, in full or in the short form that fits a name."""
        rows = self._data("GET", "/instances", "instances")
        if not isinstance(rows, list):
            # An empty list instead would mean that nothing bills.
            raise ProviderError("lambda's list of instances is not readable", why=f"`data` is {type(rows).__name__}")
        ours = [row for row in rows if label_of(Fields.of(row, "lambda's instance"), prefix).startswith(prefix)]
        return [found for row in ours if (found := _instance(row, asked_for=prefix)) is not None]

    def destroy(self, instance_id: str) -> None:
        """Terminate the machine with its disk."""
        body = {"instance_ids": [_checked(instance_id)]}
        try:
            self._api.call("POST", "/instance-operations/terminate", endpoint="terminate", body=body)
        except Refused as error:
            if error.answer.status != 404 and not error.says("object-does-not-exist"):
                raise ProviderError(
                    f"`{self.name}` does not terminate {instance_id}",
                    why=error.answer.summary,
                    hint=f"end it by hand: {CONSOLE}",
                ) from error

    def _data(self, method: str, path: str, endpoint: str) -> Any:
        answer = Fields.of(self._api.call(method, path, endpoint=endpoint), "lambda's answer")
        if answer.row.get("data") is None:
            raise ProviderError("`lambda_cloud` answered nonsense", why=f"{method} {path}: there is no `data` in it")
        return answer.row["data"]


def status_of(word: str) -> Status:
    """Total: a word that Lambda invents tomorrow means that nobody knows what the machine does."""
    return _STATUS.get(word, Status.SILENT)


def _instance(row: Any, *, asked_for: str = "") -> Instance | None:
    fields = Fields.of(row, "lambda's instance")
    status, address = fields.text("status"), fields.text("ip", "")
    if status == GONE:
        return None
    kind = Fields.of(fields.row.get("instance_type") or {}, "lambda's instance type")
    specs = Fields.of(kind.row.get("specs") or {}, "lambda's specs")
    return Instance(
        instance_id=fields.text("id"),
        label=label_of(fields, asked_for),
        status=status_of(status),
        addresses=(Address(address, PORT, USER),) if address else (),
        price_per_hour=price_per_hour(kind),
        detail=status,
        gpus=specs.whole("gpus", 0) or None,
    )


def _launched_id(answer: Any) -> str:
    """Raises MayHaveCreated for a good answer without an id: a machine may be there."""
    data = answer.get("data") if isinstance(answer, dict) else None
    ids = data.get("instance_ids") if isinstance(data, dict) else None
    if not isinstance(ids, list) or len(ids) != 1 or not isinstance(ids[0], str):
        raise MayHaveCreated(
            "`lambda_cloud` may have opened a machine, and did not say which",
            why="POST /instance-operations/launch answered without exactly one id",
            hint="gptops gc",
        )
    return ids[0]


def _launch_refused(offer: Offer, error: Refused) -> ProviderError:
    """Nothing was created."""
    why = error.answer.summary
    if error.says("insufficient-capacity") or error.answer.status == 404:
        return OfferGone(f"{offer.description} is not to be had now", why=why, hint="gptops up")
    if error.says("quota-exceeded"):
        return ProviderError(
            "the quota at `lambda_cloud` is reached",
            why=why,
            hint=f"end a machine: {CONSOLE}, or ask their support for more",
        )
    return ProviderError("`lambda_cloud` refused to launch the machine", why=why, hint=f"look there: {CONSOLE}")


def _refuse_spot(asked: bool) -> None:
    if asked:
        raise NoOffer(
            "`lambda_cloud` has no spot machines",
            why="Lambda sells on-demand machines alone, for one price",
            hint="leave spot and bid out, or take --provider vast",
        )


def _checked(instance_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", instance_id):
        raise ProviderError(f"{instance_id!r} is no id of a machine at Lambda", hint="gptops ps")
    return instance_id
