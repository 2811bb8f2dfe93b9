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
from launcher.errors import MayHaveCreated, NoOffer, OfferGone, ProviderError
from launcher.providers.answer import Refused
from launcher.providers.api_keys import api_key, is_loopback
from launcher.providers.base import CreateRequest, Instance, Offer, OffSwitch, Wanted
from launcher.providers.fields import Fields
from launcher.providers.http import Api
from launcher.providers.runpod_catalog import (
    CLOUDS,
    CLUSTER_CLOUDS,
    cloud_of,
    count_of,
    cuda_floor,
    data_center_of,
    in_cluster,
    offers_of,
)
from launcher.providers.runpod_container import container
from launcher.providers.runpod_keys import try_register
from launcher.providers.runpod_pods import instance_of, label_of

API = "https://api.runpod.io/v2"
CONSOLE = "https://console.runpod.io/pods"
PAUSES = {"read": 1.0, "write": 1.0}
"""The published policy is 60 requests a minute for one user (`RateLimit-Policy`)."""

PLACED_SECONDS = 300.0
"""How long a pod of a new cluster may have no rank yet: told nowhere; an image is pulled after that."""


def open_runpod(clock: Clock) -> RunpodProvider:
    """The vendor, or what $RUNPOD_REST_URL names. Reads the key at the first question."""
    return RunpodProvider(runpod_api(clock))


def runpod_api(clock: Clock) -> Api:
    """What speaks for one account."""
    url = os.environ.get("RUNPOD_REST_URL") or API
    # The pauses are those of the vendor; a double on this machine has its own, and says 429.
    pauses: Mapping[str, float] = {} if is_loopback(urlsplit(url).hostname or "") else PAUSES
    return Api(url, lambda: api_key("runpod"), provider="runpod", clock=clock, pauses=pauses)


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
        """Each GPU type in each data center with stock, on both clouds; for several nodes, where clusters are made."""
        _refuse_spot(wanted.spot or wanted.bid is not None)
        found: list[Offer] = []
        product, clouds = ("POD", CLOUDS) if wanted.nodes == 1 else ("CLUSTER", CLUSTER_CLOUDS)
        for cloud in clouds:
            query = {"include": "AVAILABILITY", "product": product, "count": str(count_of(wanted)), "cloud": cloud}
            catalog = self._api.call("GET", "/catalog/gpus", endpoint="read", query=query)
            for offer in offers_of(catalog, cloud, wanted):
                found += [offer] if wanted.nodes == 1 else in_cluster(offer, wanted.nodes)
        return sorted(found, key=lambda offer: (offer.price_per_hour, offer.offer_id))

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        """Ask for the pod. RunPod answers before it runs. One in a cluster was asked for with that: it is found."""
        _refuse_spot(offer.spot or request.bid is not None)
        if request.network:
            return self._in_cluster(request)
        try_register(self._api, request.public_key)
        try:
            pod = self._api.call("POST", "/pods", endpoint="write", body=_body(offer, request), may_bill=True)
        except Refused as error:
            raise create_refused(offer, error) from error
        return _created(pod)

    def authorize(self, instance_id: str, public_key: str) -> None:
        """`create` has let it in: a pod's keys are fixed when it is made."""

    def get(self, instance_id: str) -> Instance | None:
        """The pod as it is now."""
        cluster_id, pod_id = _parts(instance_id)
        if cluster_id:
            # A pod that outlives its cluster for a moment would be missed in the cluster's own list.
            there = [each for each in map(instance_of, self._pods()) if each and each.instance_id == instance_id]
            return there[0] if there else None
        try:
            return instance_of(self._api.call("GET", f"/pods/{pod_id}", endpoint="read"))
        except Refused as error:
            if error.answer.status == 404:
                return None
            raise

    def labelled(self, prefix: str) -> list[Instance]:
        """All pods whose label starts with `prefix`: a pod's name is its label, and a cluster's pod carries it."""
        ours = [pod for pod in self._pods() if label_of(pod).startswith(prefix)]
        return [instance for instance in map(instance_of, ours) if instance is not None]

    def destroy(self, instance_id: str) -> None:
        """Delete the pod with its disk; one in a cluster with the cluster, which alone RunPod deletes."""
        cluster_id, pod_id = _parts(instance_id)
        delete(self._api, "clusters" if cluster_id else "pods", cluster_id or pod_id)

    def _pods(self) -> list[Any]:
        query = {"includeClusterPods": "true"}
        answer = Fields.of(self._api.call("GET", "/pods", endpoint="read", query=query), "runpod's list of pods")
        rows = answer.row.get("pods")
        if not isinstance(rows, list):
            # An empty list instead would mean that nothing bills.
            raise ProviderError("runpod's list of pods is not readable", why="it has no `pods`")
        return rows

    def _in_cluster(self, request: CreateRequest) -> Instance:
        found = [each for each in self.labelled(request.label) if each.label == request.label]
        if not found:
            raise MayHaveCreated(
                f"the cluster {request.network} has no pod of that rank yet",
                why=f"it is waited for {PLACED_SECONDS:.0f} s",
                hint="gptops gc",
                within_seconds=PLACED_SECONDS,
            )
        return found[0]


def delete(api: Api, kind: str, its_id: str) -> None:
    """Delete one of `pods` or `clusters`. Already gone is success."""
    try:
        api.call("DELETE", f"/{kind}/{checked(its_id)}", endpoint="write")
    except Refused as error:
        if error.answer.status != 404:
            raise ProviderError(
                f"`runpod` does not delete the {kind.removesuffix('s')} {its_id}",
                why=error.answer.summary,
                hint=f"end it by hand: {CONSOLE}",
            ) from error


def _body(offer: Offer, request: CreateRequest) -> dict[str, Any]:
    gpu: dict[str, Any] = {"id": offer.gpu_name, "count": offer.gpus}
    floor = cuda_floor(offer)
    if floor is not None:
        gpu["minCudaVersion"] = floor
    body: dict[str, Any] = {"name": request.label, "gpu": gpu, "cloud": cloud_of(offer), **container(request)}
    center = data_center_of(offer)
    if center is not None:
        body["dataCenterIds"] = [center]
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


def create_refused(offer: Offer, error: Refused) -> ProviderError:
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


def _parts(instance_id: str) -> tuple[str, str]:
    """The cluster's id, "" outside of one, and the pod's."""
    cluster_id, slash, pod_id = instance_id.rpartition("/")
    return (checked(cluster_id) if slash else ""), checked(pod_id)


def checked(instance_id: str) -> str:
    """An id that may stand in a path."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", instance_id):
        raise ProviderError(f"{instance_id!r} is no id of a pod", hint="gptops ps")
    return instance_id
