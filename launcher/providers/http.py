"""Asking a vendor's HTTP API: one question, one answer, never faster than the vendor allows.

It knows no vendor. It sends the key in one header and shows it nowhere; follows no
redirect, because the key would go along; and asks again for nobody: whether a
question may be repeated is the caller's to know (launcher.providers.retrying).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from launcher.clock import Clock
from launcher.errors import LocalFault, ProviderDown, ProviderError, RateLimited
from launcher.providers.answer import Answer, lost, one_line
from launcher.providers.api_keys import ApiKey, is_loopback, require_safe_address

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 15.0
SILENCE_SECONDS = 30.0
"""Between two pieces of an answer: a question that may be asked again need not hang for long."""
CREATE_SECONDS = 120.0
"""The same for a question that opens a machine, whose answer must not be missed."""
WHOLE_SECONDS = 120.0
"""For one answer in all: what Vast's own client allows."""
SHORTEST_SECRET = 8
"""What is shorter is no vendor's key, and stands in ordinary words."""
MOST_BYTES = 64 * 2**20
LONGEST_WAIT_SECONDS = 60.0
"""What a vendor may ask us to wait before the next question."""


class Api:
    """One vendor's API for one key. `pauses`: least seconds between two questions to an endpoint."""

    def __init__(
        self,
        base_url: str,
        key: Callable[[], ApiKey],
        *,
        provider: str,
        clock: Clock,
        pauses: Mapping[str, float],
    ) -> None:
        self._base_url = require_safe_address(base_url)
        self._find_key = key
        self._key: ApiKey | None = None
        self._provider = provider
        self._clock = clock
        self._pauses = pauses
        self._not_before: dict[str, float] = {}
        self._turn = threading.Lock()
        self._tls: Any = None

    def call(
        self,
        method: str,
        path: str,
        *,
        endpoint: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        may_bill: bool = False,
    ) -> Any:
        """The parsed JSON of a good answer. Everything else is raised:

        401/403 KeyRefused; 429 of every shape RateLimited; no answer, 5xx, HTML, half a JSON ProviderDown, or
        MayHaveCreated with `may_bill`; a redirect ProviderError; any other refusal answer.Refused, for the vendor's
        module to translate. A connection that was never made is ProviderDown in every case: nothing was asked."""
        answer = self.ask(method, path, endpoint=endpoint, body=body, query=query, may_bill=may_bill)
        failure = answer.failure(may_bill=may_bill)
        if failure is not None:
            raise failure
        return answer.content

    def ask(
        self,
        method: str,
        path: str,
        *,
        endpoint: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        may_bill: bool = False,
    ) -> Answer:
        """The answer, whatever its status: for whoever must look into a refusal. Raises where none came."""
        if self._key is None:
            self._key = self._find_key()
        self._wait_for(endpoint)
        try:
            answer = self._sent(method, path, body, query, may_bill)
        finally:
            with self._turn:
                following = self._clock.monotonic() + self._pauses.get(endpoint, 0.0)
                self._not_before[endpoint] = max(self._not_before[endpoint], following)
        self._remember_limit(endpoint, answer)
        return answer

    def _wait_for(self, endpoint: str) -> None:
        """Machines that are opened side by side share one Api: each question takes the next free moment."""
        with self._turn:
            now = self._clock.monotonic()
            at = max(now, self._not_before.get(endpoint, 0.0))
            self._not_before[endpoint] = at + self._pauses.get(endpoint, 0.0)
        if at > now:
            self._clock.sleep(at - now)

    def _remember_limit(self, endpoint: str, answer: Answer) -> None:
        """Also the next question of somebody who does not know of this answer has to wait."""
        failure = answer.failure()
        if isinstance(failure, RateLimited) and failure.retry_after_seconds is not None:
            wait = min(failure.retry_after_seconds, LONGEST_WAIT_SECONDS)
            with self._turn:
                self._not_before[endpoint] = max(self._not_before[endpoint], self._clock.monotonic() + wait)

    def _sent(self, method: str, path: str, body: Any, query: Mapping[str, str] | None, may_bill: bool) -> Answer:
        import httpx2  # late: a tenth of a second, for verbs that ask a cloud

        asked = f"{method} {path}"
        try:
            # A connection of its own for each question: one kept open may have died unseen, and then nobody
            # could tell whether a create had arrived.
            with (
                self._client(may_bill) as client,
                client.stream(method, self._base_url + path, json=body, params=query) as got,
            ):
                return self._answer(asked, got)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise ProviderDown(
                f"`{self._provider}` cannot be reached at {self._base_url}",
                why=self._cleaned(str(error) or type(error).__name__),
                hint="is this machine online? nothing was asked, so nothing was opened",
            ) from None
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, _TooMuch) as error:
            why = f"{asked}: {self._cleaned(str(error) or type(error).__name__)}"
            raise lost(self._provider, why, may_bill=may_bill) from None

    def _client(self, may_bill: bool) -> httpx2.Client:
        import httpx2

        assert self._key is not None
        on_this_machine = is_loopback(urlsplit(self._base_url).hostname or "")
        try:
            if self._tls is None:
                self._tls = httpx2.create_ssl_context() if self._base_url.startswith("https") else False
            return httpx2.Client(
                headers={"Authorization": f"Bearer {self._key.secret}", "Accept": "application/json"},
                timeout=httpx2.Timeout(CREATE_SECONDS if may_bill else SILENCE_SECONDS, connect=CONNECT_SECONDS),
                follow_redirects=False,
                trust_env=not on_this_machine,  # a proxy has no business between two programs on one machine
                verify=self._tls,
            )
        except (OSError, ValueError, ImportError, httpx2.InvalidURL) as error:
            raise LocalFault(
                f"this machine's settings do not let us ask `{self._provider}`",
                why=self._cleaned(str(error) or type(error).__name__),
                hint="env | grep -i -e proxy -e ssl_cert",
            ) from None

    def _answer(self, asked: str, got: httpx2.Response) -> Answer:
        began, size, pieces = self._clock.monotonic(), 0, []
        for piece in got.iter_bytes():
            pieces.append(piece)
            size += len(piece)
            if size > MOST_BYTES:
                raise _TooMuch(f"more than {MOST_BYTES // 2**20} MiB of answer")
            if self._clock.monotonic() - began > WHOLE_SECONDS:
                raise _TooMuch(f"the answer was not whole after {WHOLE_SECONDS:.0f} s")
        text = self._without_key(b"".join(pieces).decode("utf-8", errors="replace"))
        headers = {name.lower(): self._without_key(value) for name, value in got.headers.items()}
        return Answer(self._provider, asked, got.status_code, text, headers, self._clock.now())

    def _cleaned(self, text: str) -> str:
        return one_line(self._without_key(text))

    def _without_key(self, text: str) -> str:
        if self._key is None or len(self._key.secret) < SHORTEST_SECRET:
            return text
        return text.replace(self._key.secret, "***")


class _TooMuch(Exception):
    """An answer without an end."""


def require_success(answer: Any, provider: str, asked: str) -> Mapping[str, Any]:
    """The answer as an object that does not say `"success": false`. Vendors send that with status 200."""
    if not isinstance(answer, dict):
        raise ProviderError(f"`{provider}` answered nonsense", why=f"{asked}: no object, but {type(answer).__name__}")
    if answer.get("success") is False:
        said = answer.get("msg") or answer.get("error") or "no reason given"
        raise ProviderError(f"`{provider}` refused", why=f"{asked}: {one_line(str(said))}")
    return answer
