"""What the hub, the network and `datasets` can refuse, as our errors.

`datasets` wraps what went wrong several times, and differently from version to version; so the whole chain of causes
is looked through for the one that says it.
"""

from __future__ import annotations

from collections.abc import Iterator

from trainer.config.sources import HubSource
from trainer.errors import DataError

_NETWORK_PACKAGES = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "aiohttp", "ssl", "socket"}
_PASSES = {408, 425, 429, 500, 502, 503, 504}
"""Answers that another attempt may change."""


class HubUnreachable(DataError):
    """The hub could not be asked, or did not want to be, for longer than we wait. What is prepared is kept."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, the outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def endpoint() -> str:
    """The address of the hub that is asked: HF_ENDPOINT, or the public one."""
    from huggingface_hub import constants  # late: text in local files needs no hub

    return str(constants.ENDPOINT)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    return any(_status(one) in _PASSES or (_status(one) is None and _is_network(one)) for one in chain(error))


def refusal(error: Exception, source: HubSource) -> DataError:
    """The error as one of ours, for what no waiting changes."""
    names = [type(one).__name__ for one in chain(error)]
    why = _first_line(error)
    page = f"{endpoint()}/datasets/{source.dataset}"
    statuses = set(map(_status, chain(error)))
    missing = "RepositoryNotFoundError" in names or "DatasetNotFoundError" in names
    if "GatedRepoError" in names or "is a gated dataset" in str(error) or ({401, 403} & statuses and not missing):
        return DataError(
            f"the dataset `{source.dataset}` is gated",
            why=f"the hub wants to know who reads it: {why}",
            hint=f"accept its terms at {page}, then set HF_TOKEN to a token of yours (hf.co/settings/tokens)",
        )
    if missing:
        return DataError(
            f"there is no dataset `{source.dataset}` on the hub, or it is private",
            why=why,
            hint=f"look at {page}; for a private one set HF_TOKEN",
        )
    if "RevisionNotFoundError" in names:
        return DataError(f"the dataset `{source.dataset}` has lost a version that was begun", why=why, hint=ANEW)
    if any(name in ("EntryNotFoundError", "RemoteEntryNotFoundError", "FileNotFoundError") for name in names):
        return DataError(
            f"the dataset `{source.dataset}` lacks a file that it lists",
            why=why,
            hint=f"look at {page}/tree/main; the hub may be in the middle of an update: try again later",
        )
    if (names[0] == "ValueError" and "BuilderConfig" in why) or "Config name is missing" in str(error):
        return DataError(
            f"the dataset `{source.dataset}` has no configuration `{source.config or 'default'}`",
            why=" ".join(str(error).split())[:300],
            hint=f"`data.path=hf:{source.dataset}:CONFIG`",
        )
    if "Bad split" in why:
        return DataError(
            f"the dataset `{source.dataset}` has no split `{source.split}`",
            why=why,
            hint=f"`data.path=hf:{source.dataset}{':' + source.config if source.config else ''}@SPLIT`",
        )
    if any(word in " ".join(map(str, chain(error))) for word in _DAMAGE) or {"EOFError", "BadGzipFile"} & set(names):
        return DataError(
            f"a file of the dataset `{source.dataset}` is cut off or damaged",
            why=why,
            hint=f"look at {page}/tree/main; if it is whole there, fetch it and give the path: "
            f"`hf download --repo-type dataset {source.dataset}`",
        )
    return DataError(
        f"the dataset `{source.dataset}` cannot be read",
        why=f"{type(error).__name__}: {why}",
        hint=f"look at {page}; a file that you have fetched is read with `data.path=FILE`",
    )


def unreachable(error: Exception, source: HubSource, attempts: int) -> HubUnreachable:
    """The error for what may pass, when it did not."""
    limited = any(_status(one) == 429 for one in chain(error))
    return HubUnreachable(
        f"the hub asks to come back later: `{source.dataset}`" if limited else f"cannot reach the hub: {endpoint()}",
        why=f"{attempts} attempts; the last one: {_first_line(error)}",
        hint="start again, what is prepared is kept; "
        + (
            "with HF_TOKEN set the hub allows more" if limited else "`curl -sI " + endpoint() + "` shows the connection"
        ),
    )


ANEW = "remove the folder of the shards, and prepare anew"

_DAMAGE = (
    "Parquet magic bytes",
    "Couldn't deserialize thrift",
    "Unexpected end of stream",
    "Page was smaller",
    "Corrupt ",
    "decompression failed",
    "zlib",
)


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_network(error: BaseException) -> bool:
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, (ConnectionError, TimeoutError)) or package in _NETWORK_PACKAGES


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for one in chain(error) for line in str(one).splitlines() if line.strip()]
    named = [line for line in lines if " url: " in line]  # says more than `404 Client Error.`, which stands above it
    return (named or lines or [type(error).__name__])[0]
