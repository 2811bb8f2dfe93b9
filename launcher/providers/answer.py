"""One answer of a vendor's HTTP API, and the error it amounts to.

Pure: launcher.providers.http asks, this reads. What only one vendor means by a
refusal (an offer that is gone, an instance that is gone) is that vendor's module's.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from launcher.errors import GptopsError, KeyRefused, MayHaveCreated, ProviderDown, ProviderError, RateLimited
from launcher.providers.api_keys import where_to_allow, where_to_get

MOST_WORDS = 300
_WORDS_STAND_IN = ("msg", "message", "detail", "error", "title", "reason", "code", "suggestion")
_RATE_WORDS = re.compile(r"too frequent|too many requests", re.I)  # `spend_rate_limit` is no question of pace
_THRESHOLD = re.compile(r"threshold\s*=\s*(\d+(?:\.\d+)?)")
_QUOTA = "search_quota_exceeded"


class Refused(ProviderError):
    """The API understood and said no. The vendor's module knows what that means; uncaught, it is an error as it is."""

    def __init__(self, what: str, *, why: str = "", hint: str = "", answer: Answer) -> None:
        super().__init__(what, why=why, hint=hint)
        self.answer = answer

    def says(self, *tokens: str) -> bool:
        """Whether one of these stands anywhere in what was answered: vendors move them between fields."""
        return any(token.lower() in self.answer.text.lower() for token in tokens)


@dataclass(frozen=True)
class Answer:
    """What came back. Its text never holds the key, whatever the vendor sent."""

    provider: str
    asked: str
    """`PUT /api/v0/asks/1/`: no host, no query."""
    status: int
    text: str
    headers: Mapping[str, str]
    """Names in lower case."""
    received_at: float

    @cached_property  # a market's answer is megabytes
    def content(self) -> Any:
        """The parsed JSON; None for an empty 204. Raises ValueError where it is no JSON."""
        if self.status == 204 and not self.text.strip():
            return None
        try:
            return json.loads(self.text, parse_constant=_no_number)
        except RecursionError as error:
            raise ValueError("nested too deep") from error

    @property
    def fields(self) -> Mapping[str, Any]:
        """The answer as an object; empty where it is none."""
        try:
            content = self.content
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    @property
    def words(self) -> str:
        """The vendor's own words, in one printable line."""
        said = [_text_in(self.fields[name]) for name in _WORDS_STAND_IN if name in self.fields]
        if not any(said):
            said = ["an HTML page"] if _is_html(self) else [self.text]
        return one_line(": ".join(dict.fromkeys(word for word in reversed(said[:2]) if word)))

    @property
    def summary(self) -> str:
        """`PUT /api/v0/asks/1/ answered 404: no_such_ask …`"""
        return f"{self.asked} answered {self.status}" + (f": {self.words}" if self.words else "")

    def failure(self, *, may_bill: bool = False) -> GptopsError | None:
        """The error this is; None for a good answer. `may_bill`: the question was one that opens a machine."""
        if _is_rate_limit(self):
            return _rate_limited(self)
        if 300 <= self.status < 400:
            return _redirected(self)
        if self.status in (401, 403):
            return key_refused(self)
        if self.status >= 500 or self.status in (408, 425) or _is_html(self):  # an API does not speak HTML
            return lost(self.provider, self.summary, may_bill=may_bill)
        if self.status >= 400:
            return Refused(f"`{self.provider}` refused", why=self.summary, answer=self)
        return self._unreadable(may_bill=may_bill)

    def _unreadable(self, *, may_bill: bool) -> GptopsError | None:
        try:
            _ = self.content
        except ValueError as error:
            shown = self.words if _is_html(self) else f"no whole JSON ({error})"
            return lost(self.provider, f"{self.asked} answered {self.status} with {shown}", may_bill=may_bill)
        return None


def key_refused(answer: Answer) -> KeyRefused:
    """The key is wrong, or may not do this."""
    if answer.status == 403:
        what, hint = "does not let this API key do that", where_to_allow(answer.provider)
    else:
        what, hint = "does not take the API key", where_to_get(answer.provider)
    return KeyRefused(f"`{answer.provider}` {what}", why=answer.summary, hint=hint)


def lost(provider: str, why: str, *, may_bill: bool) -> ProviderError:
    """No usable answer: after a question that opens a machine, one may be open."""
    if may_bill:
        return MayHaveCreated(f"`{provider}` may have opened a machine, and did not say so", why=why, hint="gptops gc")
    return ProviderDown(f"`{provider}` gave no usable answer", why=why, hint="wait a minute and type it again")


def one_line(text: str) -> str:
    """What a vendor wrote, made fit to print: no control characters, no line breaks, not too much of it."""
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return plain if len(plain) <= MOST_WORDS else plain[: MOST_WORDS - 1] + "…"


def _text_in(value: Any) -> str:
    return value.strip() if isinstance(value, str) else "" if value is None else json.dumps(value)


def _is_html(answer: Answer) -> bool:
    return "html" in answer.headers.get("content-type", "") or answer.text.lstrip().lower().startswith(
        ("<!doc", "<htm")
    )


def _is_rate_limit(answer: Answer) -> bool:
    if answer.status == 429:
        return True
    if not 400 <= answer.status < 500:
        return False
    named = answer.fields.get("error") in ("rate_limit_exceeded", _QUOTA)
    return named or bool(_RATE_WORDS.search(answer.words))


def _rate_limited(answer: Answer) -> RateLimited:
    wait = _retry_after(answer)
    hint = "wait a minute and type it again"
    if wait == math.inf:
        hint = "search again after midnight UTC, or take a machine by another provider"
    return RateLimited(
        f"`{answer.provider}` was asked too often", why=answer.summary, hint=hint, retry_after_seconds=wait
    )


def _retry_after(answer: Answer) -> float | None:
    if _QUOTA in answer.text:
        return math.inf  # the vendor's own client gives up until midnight UTC
    said = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", said):
        return float(said)
    date = email.utils.parsedate_tz(said) if said else None
    if date is not None:
        return max(0.0, email.utils.mktime_tz(date) - answer.received_at)
    threshold = _THRESHOLD.search(answer.text)
    return float(threshold[1]) if threshold else None


def _redirected(answer: Answer) -> ProviderError:
    place = urlsplit(answer.headers.get("location", ""))
    # Without user, query and fragment: a login page's address carries tokens in them.
    shown = f"{place.scheme}://{place.hostname}{place.path}" if place.hostname else place.path or "nowhere"
    return ProviderError(
        f"`{answer.provider}` sent us elsewhere, and the key does not follow",
        why=f"{answer.asked} answered {answer.status}, to {one_line(shown)}",
        hint=f"env | grep -i url   # is the address of `{answer.provider}` right? is a login page in between?",
    )


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")
