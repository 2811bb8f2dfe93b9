"""`runpod`: pods by RunPod's REST API v2 (docs.runpod.io/api-reference-v2).

Version 1, which took bids, ended on 2026-11-15: there is no spot here. Nothing in
this module was run against the live service; it was written from the vendor's
OpenAPI file, and docs/runpod.md says where that leaves doubts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from launcher.clock import Clock
from launcher.errors import KeyRefused, MayHaveCreated, NoOffer, OfferGone, ProviderError
from launcher.providers.answer import Refused
from launcher.providers.api_keys import api_key, is_loopback
from launcher.providers.base import CreateRequest, Instance, Offer, OffSwitch, Wanted
from launcher.providers.fields import Fields
from launcher.providers.http import Api
from launcher.providers.runpod_catalog import CLOUDS, cloud_of, count_of, cuda_floor, data_center_of, disk_gb, offers_of
from launcher.providers.runpod_keys import register_key
from launcher.providers.runpod_pods import instance_of

API = "https://api.runpod.io/v2"
CONSOLE = "https://console.runpod.io/pods"
PAUSES = {"read": 1.0, "write": 1.0}
"""The published policy is 60 requests a minute for one user (`RateLimit-Policy`)."""

VENDOR_IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
"""Where no job names one. RunPod's own images start an sshd when PUBLIC_KEY is set."""
SSHD = (
    "bash -c 'export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; "
    "apt-get install -y -qq --no-install-recommends openssh-server rsync; "
    "mkdir -p /run/sshd ~/.ssh; chmod 700 ~/.ssh; "
    'echo "$PUBLIC_KEY" >> ~/.ssh/authorized_keys; chmod 600 ~/.ssh/authorized_keys; '
    'env | grep "^RUNPOD_" >> /etc/environment; '
    "ssh-keygen -A; exec /usr/sbin/sshd -D -e'"
)
"""What any other image with apt is told to run. RUNPOD_* must reach logins: the dead-man's switch ends the pod so."""


def open_runpod(clock: Clock) -> RunpodProvider:
    """The vendor, or what $RUNPOD_REST_URL names. Reads the key at the first question."""
    url = os.environ.get("RUNPOD_REST_URL") or API
    # The pauses are those of the vendor; a double on this machine has its own, and says 429.
    pauses: Mapping[str, float] = {} if is_loopback(urlsplit(url).hostname or "") else PAUSES
    return RunpodProvider(Api(url, lambda: api_key("runpod"), provider="runpod", clock=clock, pauses=pauses))


class RunpodProvider:
    """One account; keeps nothing."""

    def __init__(self, api: Api) -> None:
        self._api = api

    @property
    def name(self) -> str:
        """The word in jobs.yaml."""
        return "runpod"

    @property
    def off_switch(self) -> OffSwitch:
        """RunPod puts a key of the pod's own into each pod."""
        return OffSwitch.RUNPOD

    def console_url(self, instance_id: str) -> str:
        """The page with all pods of the account."""
        return CONSOLE

    def offers(self, wanted: Wanted) -> list[Offer]:
        """Each GPU type in each data center with stock, on both clouds."""
        _refuse_spot(wanted.spot or wanted.bid is not None)
        found: list[Offer] = []
        for cloud in CLOUDS:
            query = {"include": "AVAILABILITY", "product": "POD", "count": str(count_of(wanted)), "cloud": cloud}
            catalog = self._api.call("GET", "/catalog/gpus", endpoint="read", query=query)
            found += offers_of(catalog, cloud, wanted)
        return sorted(found, key=lambda offer: (offer.price_per_hour, offer.offer_id))

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        """Ask for the pod. RunPod answers before it runs."""
        _refuse_spot(offer.spot or request.bid is not None)
        self._register(request.public_key)
        try:
            pod = self._api.call("POST", "/pods", endpoint="write", body=_body(offer, request), may_bill=True)
        except Refused as error:
            raise _create_refused(offer, error) from error
        return _created(pod)

    def authorize(self, instance_id: str, public_key: str) -> None:
        """`create` has let it in: a pod's keys are fixed when it is made."""

    def get(self, instance_id: str) -> Instance | None:
        """The pod as it is now."""
        try:
            return instance_of(self._api.call("GET", f"/pods/{_checked(instance_id)}", endpoint="read"))
        except Refused as error:
            if error.answer.status == 404:
                return None
            raise

    def labelled(self, prefix: str) -> list[Instance]:
        """All pods whose name starts with `prefix`."""
        answer = Fields.of(self._api.call("GET", "/pods", endpoint="read"), "runpod's list of pods")
        rows = answer.row.get("pods")
        if not isinstance(rows, list):
            # An empty list instead would mean that nothing bills.
            raise ProviderError("runpod's list of pods is not readable", why="it has no `pods`")
        ours = [row for row in rows if Fields.of(row, "runpod's pod").text("name", "").startswith(prefix)]
        return [instance for instance in map(instance_of, ours) if instance is not None]

    def destroy(self, instance_id: str) -> None:
        """Delete the pod with its disk."""
        try:
            self._api.call("DELETE", f"/pods/{_checked(instance_id)}", endpoint="write")
        except Refused as error:
            if error.answer.status != 404:
                raise ProviderError(
                    f"`{self.name}` does not delete the pod {instance_id}",
                    why=error.answer.summary,
                    hint=f"end it by hand: {CONSOLE}",
                ) from error

    def _register(self, public_key: str) -> None:
        try:
            register_key(self._api, public_key)
        except (Refused, KeyRefused):
            # The request carries the key too, which v2 documents as enough; the account's list is the second way.
            # An API key that may not even create is refused in a moment, by `POST /pods`.
            return


def _body(offer: Offer, request: CreateRequest) -> dict[str, Any]:
    gpu: dict[str, Any] = {"id": offer.gpu_name, "count": offer.gpus}
    floor = cuda_floor(offer)
    if floor is not None:
        gpu["minCudaVersion"] = floor
    image = request.image or VENDOR_IMAGE
    body: dict[str, Any] = {
        "name": request.label,
        "image": image,
        "gpu": gpu,
        "cloud": cloud_of(offer),
        "disk": disk_gb(request.disk_gib),
        "ports": ["22/tcp"],
        "env": {"PUBLIC_KEY": request.public_key},
        "startSsh": True,
    }
    center = data_center_of(offer)
    if center is not None:
        body["dataCenterIds"] = [center]
    if not image.startswith("runpod/"):
        body["args"] = SSHD
    return body


def _created(pod: Any) -> Instance:
    """The pod of a good answer. One that cannot be read may bill all the same."""
    try:
        instance = instance_of(pod)
    except ProviderError as error:
        known = pod.get("id") if isinstance(pod, dict) else None
        raise MayHaveCreated(
            "`runpod` has made a pod, and its answer is not readable",
            why=error.why,
            hint="gptops gc",
            instance_id=known if isinstance(known, str) else None,
        ) from error
    if instance is None:
        raise OfferGone("`runpod` deleted the pod as it was made", hint="gptops up")
    return instance


def _create_refused(offer: Offer, error: Refused) -> ProviderError:
    """Nothing was created. 400 is RunPod's word for "no capacity", and for a rule of its own that was broken."""
    answer = error.answer
    if answer.status == 400:
        return OfferGone(f"{offer.description} is not to be had now", why=answer.summary, hint="gptops up")
    if answer.status == 402:
        return ProviderError(
            "the balance at `runpod` is too low",
            why=answer.summary,
            hint="add credit for an hour at least: https://console.runpod.io/user/billing",
        )
    broken = answer.fields.get("errors")
    rules = "; ".join(str(each) for each in broken) if isinstance(broken, list) else ""
    why = f"{answer.summary} ({rules})" if rules else answer.summary
    return ProviderError("`runpod` refused to make the pod", why=why, hint="correct `image` or `disk_gib` in jobs.yaml")


def _refuse_spot(asked: bool) -> None:
    if asked:
        raise NoOffer(
            "`runpod` has no spot machines",
            why="its API v2 takes no bids, and v1, which did, ended on 2026-11-15",
            hint="leave spot and bid out, or take --provider vast",
        )


def _checked(instance_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", instance_id):
        raise ProviderError(f"{instance_id!r} is no id of a pod", hint="gptops ps")
    return instance_id
