"""How plans and offers are shown: the words before money is spent, the table of `offers`, and both as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from launcher import console

if TYPE_CHECKING:
    from launcher.books.budget import Live
    from launcher.hosts.planning import HostPlan
    from launcher.renting.choice import Choice, LeftOut
    from launcher.renting.markets import Markets
    from launcher.renting.ranking import Forecast, Ranked

OFFER_COLUMNS = (
    *("OFFER", "PROVIDER", "GPUS", "GIB", "$/H", "HOURS", "$ JOB"),
    *("RELIABILITY", "DOWN", "UP", "CUDA", "LOCATION"),
)


_TIGHT = "the job is estimated to take more memory than such a GPU has"


def plan_words(plan: HostPlan, forecast: Forecast | None) -> list[str]:
    """What would be opened, and what it costs."""
    from launcher.hosts.planning import described

    offer = plan.offer
    spot = ", spot: it may be taken away at any moment" if offer.spot else ""
    words = [
        f"`{plan.name}`: {offer.description} at `{offer.provider}`, {described(plan.wanted)}{spot}",
        f"cost: {plan.cost}",
    ]
    if forecast is not None:
        words.append(f"this job there: about {hours(forecast.hours)}, ${forecast.total:.2f}")
        if forecast.is_tight:
            words.append(f"warning: {_TIGHT}; `train.micro_batch_size` makes it take less")
    return words


def live_words(live: Sequence[Live], provider: str) -> str:
    """What is billed already; "" where nothing is."""
    if not live:
        return ""
    total = sum(each.price_per_hour for each in live)
    named = ", ".join(f"{each.name} ${each.price_per_hour:.2f}/h" for each in live)
    return f"open at `{provider}` already, ${total:.2f}/h: {named}"


def plan_json(plan: HostPlan, forecast: Forecast | None = None) -> dict[str, Any]:
    """What `up --dry-run` prints."""
    offer = plan.offer
    return {
        "name": plan.name,
        "provider": offer.provider,
        "offer": offer.description,
        "gpus": offer.gpus,
        "gpu_name": offer.gpu_name,
        "price_per_hour": offer.price_per_hour,
        "price_per_day": round(24 * offer.price_per_hour, 4),
        "offer_id": offer.offer_id,
        "spot": offer.spot,
        "bid": plan.bid,
        **_forecast_json(forecast),
    }


def offer_cells(ranked: Ranked) -> list[object]:
    """One line of `offers`, in the order of OFFER_COLUMNS."""
    offer, forecast = ranked.offer, ranked.forecast
    return [
        offer.offer_id,
        offer.provider,
        f"{offer.gpus}x {offer.gpu_name}".rstrip() if offer.gpus else "none",
        _number(offer.gpu_ram_gib, ".0f"),
        f"{offer.price_per_hour:.2f}",
        _number(forecast.hours if forecast else None, ".1f"),
        _number(forecast.total if forecast else None, ".2f"),
        _number(offer.reliability, ".3f"),
        _number(offer.download_mbps, ".0f"),
        _number(offer.upload_mbps, ".0f"),
        _number(offer.cuda, ".1f"),
        offer.location,
    ]


def show_offers(found: Markets, *, everything: bool) -> None:
    """The table on stdout; below it, on stderr, why the others were left out: counted, or one by one."""
    choice = found.choice
    if choice.fitting:
        columns, rows = _without_empty(OFFER_COLUMNS, [offer_cells(ranked) for ranked in choice.fitting])
        console.table(columns, rows)
    unknown = sorted({each.offer.gpu_name for each in choice.fitting if each.forecast is None and each.offer.gpu_name})
    if unknown and any(each.forecast for each in choice.fitting):
        console.say(f"not known how fast, so no forecast and last: {', '.join(unknown)}")
    tight = sorted({each.offer.gpu_name for each in choice.fitting if each.forecast and each.forecast.is_tight})
    if tight:
        console.say(f"{_TIGHT}, so not first: {', '.join(tight)}")
    for error in found.silent:
        console.say(f"not in the list: {error.what}")
    if choice.left_out:
        console.say(f"left out {len(choice.left_out)}: {choice.words}" + ("" if everything else "; --all lists them"))
    if everything:
        for each in choice.left_out:
            console.say(f"  {each.offer.offer_id}  {each.offer.description}: {each.reason}")


def choice_json(choice: Choice) -> dict[str, Any]:
    """Everything about the offers, for programs."""
    return {
        "offers": [offer_json(ranked) for ranked in choice.fitting],
        "left_out": [_left_out_json(each) for each in choice.left_out],
        "left_out_by": choice.counted,
    }


def offer_json(ranked: Ranked) -> dict[str, Any]:
    """One offer that fits."""
    offer = ranked.offer
    return {
        "offer_id": offer.offer_id,
        "provider": offer.provider,
        "offer": offer.description,
        "gpus": offer.gpus,
        "gpu_name": offer.gpu_name,
        "gpu_ram_gib": offer.gpu_ram_gib,
        "price_per_hour": offer.price_per_hour,
        "disk_per_hour": offer.disk_per_hour,
        "download_usd_per_gb": offer.download_usd_per_gb,
        "spot": offer.spot,
        "min_bid": offer.min_bid,
        "reliability": offer.reliability,
        "download_mbps": offer.download_mbps,
        "upload_mbps": offer.upload_mbps,
        "cuda": offer.cuda,
        "location": offer.location,
        **_forecast_json(ranked.forecast),
    }


def hours(count: float) -> str:
    """`14 min`, `3.2 h`, `2.1 days`."""
    if count < 1:
        return f"{count * 60:.0f} min"
    return f"{count:.1f} h" if count < 48 else f"{count / 24:.1f} days"


def _left_out_json(left_out: LeftOut) -> dict[str, Any]:
    return {
        "offer_id": left_out.offer.offer_id,
        "provider": left_out.offer.provider,
        "offer": left_out.offer.description,
        "price_per_hour": left_out.offer.price_per_hour,
        "reason": left_out.reason,
        "condition": left_out.condition,
    }


def _forecast_json(forecast: Forecast | None) -> dict[str, Any]:
    if forecast is None:
        return {"predicted_hours": None, "predicted_usd": None}
    return {
        "predicted_hours": round(forecast.hours, 3),
        "predicted_usd": round(forecast.total, 4),
        "memory_is_tight": forecast.is_tight,
        "predicted_gpu_usd": round(forecast.gpu_usd, 4),
        "predicted_disk_usd": round(forecast.disk_usd, 4),
        "predicted_bandwidth_usd": round(forecast.bandwidth_usd, 4),
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _without_empty(columns: Sequence[str], rows: list[list[object]]) -> tuple[list[str], list[list[object]]]:
    """Without the columns in which no row says anything: a market tells some things, another others."""
    kept = [index for index in range(len(columns)) if any(row[index] not in ("", None) for row in rows)]
    return [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]
