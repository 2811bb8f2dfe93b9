"""Opening a machine at Vast: what is sent, and what each kind of refusal means."""

from __future__ import annotations

import logging
from typing import Any

from launcher.errors import GptopsError, MayHaveCreated, OfferGone, ProviderError, RateLimited, UsageError
from launcher.providers.answer import Answer, Refused
from launcher.providers.base import CreateRequest, Instance, Offer, Status
from launcher.providers.fields import Fields
from launcher.providers.vast_offers import disk_for

RUNTYPE = "ssh_direc ssh_proxy"
"""Cut short as the official client sends it; the documentation spells it `ssh_direct`."""
ONSTART = (
    "touch ~/.no_auto_tmux; "
    "env | grep -E '^(CONTAINER_ID|CONTAINER_API_KEY|GPU_COUNT|PUBLIC_IPADDR|VAST_[A-Z0-9_]+)=' >> /etc/environment"
)
"""SSH sessions see nothing of the container's environment otherwise; the dead-man's switch needs the first two."""
LOWEST_BID, HIGHEST_BID = 0.001, 128.0
LONGEST_LABEL, LONGEST_IMAGE = 256, 1024
PENALTY_SECONDS = 12.0
"""How long Vast refuses creates after one too many."""
BILLING_PAGE = "https://cloud.vast.ai/billing/"

_GONE = ("no_such_ask", "not available", "no longer available", "blacklist")
_BID = ("invalid_price", "min_bid", "bid is too low", "bid too low", "below the minimum bid")
_MONEY = ("missing_billing", "spend_rate_limit", "insufficient_credit", "insufficient credit", "lacks credit")

log = logging.getLogger(__name__)


def create_body(offer: Offer, request: CreateRequest) -> dict[str, Any]:
    """The body of the create call. Raises before anything is asked where it could only go wrong or cost too much."""
    _require_a_bid_where_one_belongs(offer, request)
    _require_short(request)
    body: dict[str, Any] = {
        "client_id": "me",
        "image": request.image,
        "disk": disk_for(request.disk_gib),
        "label": request.label,
        "runtype": RUNTYPE,
        "env": {f"-n {request.network}": "1"} if request.network else {},  # as the official client sends `-n NAME`
        "onstart": ONSTART,
        "target_state": "running",
        "cancel_unavail": True,  # else a machine that cannot start is created stopped, and bills its disk
        "force": False,
    }
    if request.bid is not None:
        body["price"] = round(request.bid, 6)  # without it the machine would be billed on demand, silently
    return body


def created(answer: Answer, offer: Offer, request: CreateRequest) -> Instance:
    """The instance that was opened. Raises what the contract of `create` says for anything else."""
    instance_id = _named_instance(answer)
    failure = answer.failure(may_bill=True)
    if instance_id is not None and (failure is not None or answer.fields.get("success") is not True):
        raise MayHaveCreated(
            "`vast` refused, and opened a machine all the same",
            why=answer.summary,
            hint="gptops gc",
            instance_id=instance_id,
        )
    if failure is not None:
        raise _meaning(failure)
    if answer.fields.get("success") is False:
        raise _meaning(Refused("`vast` refused", why=answer.summary, answer=answer))
    if instance_id is None:
        raise MayHaveCreated(
            "`vast` may have opened a machine, and did not say which", why=answer.summary, hint="gptops gc"
        )
    return _just_opened(instance_id, offer, request)


def _require_a_bid_where_one_belongs(offer: Offer, request: CreateRequest) -> None:
    if offer.spot and request.bid is None:
        raise UsageError(
            "a spot machine needs a bid",
            why="without one `vast` would open it on demand, at the full price",
            hint=f"gptops up --spot --bid {1.1 * (offer.min_bid or 0.1):.3f}",
        )
    if request.bid is None:
        return
    if not offer.spot:
        raise UsageError(
            "a bid goes with a spot machine", why=f"offer {offer.offer_id} is none", hint="gptops up --spot"
        )
    if not LOWEST_BID <= request.bid <= HIGHEST_BID:
        raise UsageError(f"{request.bid:g} is no bid", why=f"`vast` takes ${LOWEST_BID} to ${HIGHEST_BID:.0f} an hour")
    if offer.min_bid is not None and request.bid < offer.min_bid:
        # Vast would create it stopped, to bill for its disk, and answer with an error.
        raise OfferGone(
            f"${request.bid:g} an hour does not get offer {offer.offer_id}",
            why=f"its lowest bid is ${offer.min_bid:g}",
            hint=f"gptops up --spot --bid {offer.min_bid * 1.1:.3f}",
        )


def _require_short(request: CreateRequest) -> None:
    for what, text, most in (("label", request.label, LONGEST_LABEL), ("image", request.image, LONGEST_IMAGE)):
        if len(text) > most:
            raise UsageError(
                f"the {what} is too long for `vast`", why=f"{len(text)} characters of {most}: {text[:60]}…"
            )


def _named_instance(answer: Answer) -> str | None:
    """An id in the answer, whatever else it says."""
    if not answer.fields.get("new_contract"):
        return None
    try:
        return str(Fields(answer.fields, "vast's answer").whole("new_contract"))
    except ProviderError:
        log.warning("an id that is none: %r", answer.fields.get("new_contract"))
        return None


def _meaning(failure: GptopsError) -> GptopsError:
    if isinstance(failure, RateLimited) and failure.retry_after_seconds is None:
        failure.retry_after_seconds = PENALTY_SECONDS
    if not isinstance(failure, Refused):
        return failure
    why = failure.why
    if failure.says(*_MONEY):
        return ProviderError(
            "the account at `vast` may not spend more", why=why, hint=f"look at {BILLING_PAGE}, or take fewer machines"
        )
    if failure.answer.status in (404, 410) or failure.says(*_GONE):
        return OfferGone("the offer is gone", why=why, hint="gptops offers --provider vast")
    if failure.says(*_BID):
        return OfferGone("the bid does not get this offer", why=why, hint="gptops up --spot --bid, higher")
    return ProviderError("`vast` did not open the machine", why=why, hint="gptops offers --provider vast")


def _just_opened(instance_id: str, offer: Offer, request: CreateRequest) -> Instance:
    """What is known before the first look at it."""
    return Instance(
        instance_id=instance_id,
        label=request.label,
        status=Status.STARTING,
        addresses=(),
        price_per_hour=offer.price_per_hour if request.bid is None else request.bid + offer.disk_per_hour,
        detail="created",
        spot=offer.spot,
        machine_id=offer.machine_id,
        gpus=offer.gpus,
        disk_per_hour=offer.disk_per_hour,
    )
