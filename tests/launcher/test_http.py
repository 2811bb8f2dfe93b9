"""Asking a cloud's API: what each bad answer becomes, how fast it asks, and where the key never is."""

from __future__ import annotations

import json
import logging
import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.clock import SystemClock
from launcher.errors import (
    GptopsError,
    KeyRefused,
    LocalFault,
    MayHaveCreated,
    ProviderDown,
    ProviderError,
    RateLimited,
    UsageError,
)
from launcher.providers.answer import Refused
from launcher.providers.api_keys import ApiKey
from launcher.providers.fields import Fields
from launcher.providers.http import MOST_BYTES, Api
from tests.conftest import FakeClock
from tests.doubles.cloud import DROPPED, Asked, Cloud, Reply

SECRET = "sk-0123456789-secret"


class Vendor(Cloud):
    """Answers every question with what a test has set."""

    reply = Reply(200, {"ok": True})

    def answer(self, asked: Asked) -> Reply:
        return self.reply


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Vendor]:
    with Vendor(tmp_path, step=0) as vendor:
        yield vendor


def api(vendor: Cloud, clock: FakeClock | None = None, **pauses: float) -> Api:
    key = ApiKey("vast", SECRET, "$VAST_API_KEY")
    return Api(vendor.url, lambda: key, provider="vast", clock=clock or FakeClock(), pauses=pauses)


def failure(vendor: Vendor, reply: Reply, *, may_bill: bool = False) -> GptopsError:
    vendor.reply = reply
    with pytest.raises(GptopsError) as raised:
        api(vendor).call("PUT", "/x/", endpoint="x", body={"a": 1}, may_bill=may_bill)
    return raised.value


def test_a_question_carries_the_key_in_one_header_and_nowhere_else(vendor: Vendor) -> None:
    answer = api(vendor).call("GET", "/x/", endpoint="x", query={"filter": '{"a": "b c"}'})
    assert answer == {"ok": True}
    [asked] = vendor.requests
    assert asked.headers["authorization"] == f"Bearer {SECRET}"
    assert asked.query == {"filter": '{"a": "b c"}'}
    assert SECRET not in repr((asked.path, asked.query, asked.body))


def test_an_empty_answer_to_a_delete_is_fine(vendor: Vendor) -> None:
    vendor.reply = Reply(204)
    assert api(vendor).call("DELETE", "/x/", endpoint="x") is None


def test_a_wrong_key_is_told_where_to_get_a_right_one(vendor: Vendor) -> None:
    error = failure(vendor, Reply(401, {"success": False, "error": "auth_error", "msg": "Invalid user key"}))
    assert isinstance(error, KeyRefused)
    assert "Invalid user key" in error.why
    assert "export VAST_API_KEY=" in error.hint
    assert "--provider local" in error.hint


def test_a_key_that_may_not_is_told_where_to_allow_it(vendor: Vendor) -> None:
    error = failure(vendor, Reply(403, {"success": False, "error": "not_authorized", "msg": "instance_write"}))
    assert isinstance(error, KeyRefused)
    assert "instance_write" in error.why
    assert "give the key the right" in error.hint
    assert "https://cloud.vast.ai/manage-keys/" in error.hint


@pytest.mark.parametrize(
    ("reply", "wait"),
    [
        (Reply(429, "API requests too frequent"), None),
        (Reply(429, "API requests too frequent: endpoint threshold=4.5"), 4.5),
        (Reply(429, {"detail": "API requests too frequent endpoint threshold=4.5"}), 4.5),
        (Reply(429, {"success": False, "error": "rate_limit_exceeded", "msg": "slow down"}), None),
        (Reply(400, {"success": False, "error": "rate_limit_exceeded", "msg": "slow down"}), None),
        (Reply(429, {"msg": "x"}, {"Retry-After": "17"}), 17.0),
        (Reply(429, {"msg": "x"}, {"Retry-After": "Tue, 14 Nov 2023 22:13:40 GMT"}), 20.0),
        (Reply(429, {"msg": "x"}, {"Retry-After": "soon"}), None),
        (Reply(429, {"error": "search_quota_exceeded"}, {"X-RateLimit-Reset": "1"}), math.inf),
        (Reply(429, "<html>slow</html>"), None),
    ],
)
def test_every_way_to_say_too_often_is_understood(vendor: Vendor, reply: Reply, wait: float | None) -> None:
    for may_bill in (False, True):
        error = failure(vendor, reply, may_bill=may_bill)
        assert isinstance(error, RateLimited)
        assert error.retry_after_seconds == wait


@pytest.mark.parametrize(
    "reply",
    [
        DROPPED,
        Reply(500, {"msg": "oops"}),
        Reply(502, "<html>Bad gateway</html>"),
        Reply(504, ""),
        Reply(404, "<!doctype html><title>not here</title>"),
        Reply(200, "<html>please log in</html>"),
        Reply(200, '{"instances": [{"id": 1'),
        Reply(200, ""),
        Reply(200, '{"price": NaN}'),
        Reply(200, "[" * 100_000),
    ],
)
def test_an_answer_that_cannot_be_used_may_hide_a_machine(vendor: Vendor, reply: Reply) -> None:
    assert isinstance(failure(vendor, reply), ProviderDown)
    error = failure(vendor, reply, may_bill=True)
    assert isinstance(error, MayHaveCreated)
    assert error.hint == "gptops gc"


def test_a_connection_that_was_never_made_opened_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        asking = Api(url, lambda: ApiKey("vast", SECRET, "x"), provider="vast", clock=FakeClock(), pauses={})
        with pytest.raises(ProviderDown, match="cannot be reached"):
            asking.call("PUT", "/x/", endpoint="x", may_bill=True)


def test_an_answer_cut_short_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=_answer_half, args=(server,))
        thread.start()
        asking = Api(f"http://127.0.0.1:{port}", lambda: ApiKey("vast", SECRET, "x"), provider="vast",
                     clock=SystemClock(), pauses={})  # fmt: skip
        with pytest.raises(MayHaveCreated):
            asking.call("PUT", "/x/", endpoint="x", may_bill=True)
        thread.join()


def _answer_half(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"new_')


def test_an_answer_without_an_end_is_cut_off(vendor: Vendor) -> None:
    error = failure(vendor, Reply(200, '"' + "x" * (MOST_BYTES + 1)))
    assert isinstance(error, ProviderDown)
    assert "64 MiB" in error.why


def test_a_redirect_is_an_error_that_names_the_place_and_no_secret(vendor: Vendor) -> None:
    place = f"https://user:pw@login.example/sign-in?token={SECRET}#x"
    error = failure(vendor, Reply(302, "", {"Location": place}))
    assert isinstance(error, ProviderError)
    assert "https://login.example/sign-in" in error.why
    for secret in (SECRET, "pw", "token"):
        assert secret not in error.why
    assert len(vendor.requests) == 1  # the key did not follow


def test_a_refusal_keeps_the_vendors_words_and_fields(vendor: Vendor) -> None:
    error = failure(
        vendor, Reply(404, {"success": False, "error": "invalid_args", "msg": "no_such_ask 7", "ask_id": 7})
    )
    assert isinstance(error, Refused)
    assert error.answer.status == 404
    assert error.answer.fields["ask_id"] == 7
    assert error.says("NO_SUCH_ASK")
    assert not error.says("no_such_instance")
    assert error.why == "PUT /x/ answered 404: invalid_args: no_such_ask 7"


def test_what_a_vendor_writes_cannot_steer_the_terminal(vendor: Vendor) -> None:
    error = failure(vendor, Reply(400, {"msg": "red \x1b[31m\r\nerror: forged\x07" + "x" * 5000}))
    assert all(sign.isprintable() for sign in error.why)
    assert len(error.why) < 400


def test_the_key_is_in_no_error_no_log_and_no_repr(vendor: Vendor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    echoes = [
        Reply(400, {"msg": f"Bearer {SECRET} is bad"}),
        Reply(401, {"msg": SECRET}),
        Reply(429, SECRET),
        Reply(500, SECRET),
        Reply(302, "", {"Location": f"https://x.example/{SECRET}"}),
        DROPPED,
    ]
    for reply in echoes:
        error: BaseException | None = failure(vendor, reply, may_bill=True)
        while error is not None:
            assert SECRET not in str(error) + repr(error) + repr(vars(error))
            error = error.__cause__
    assert SECRET not in repr(ApiKey("vast", SECRET, "x"))
    assert SECRET not in caplog.text


def test_it_asks_no_faster_than_the_vendor_allows(vendor: Vendor, fake_clock: FakeClock) -> None:
    asking = api(vendor, fake_clock, create=4.5, show=2.0)
    for endpoint in ("create", "show", "create", "show"):
        asking.call("GET", f"/{endpoint}/", endpoint=endpoint)
    assert fake_clock.slept == [4.5]  # the second `show` came late enough by itself
    fake_clock.advance(1.5)
    asking.call("GET", "/show/", endpoint="show")
    assert fake_clock.slept == [4.5, 0.5]


def test_the_next_question_waits_as_long_as_the_last_refusal_said(vendor: Vendor, fake_clock: FakeClock) -> None:
    asking = api(vendor, fake_clock, show=2.0)
    vendor.fail("GET", "/show/", Reply(429, {"msg": "x"}, {"Retry-After": "30"}))
    with pytest.raises(RateLimited):
        asking.call("GET", "/show/", endpoint="show")
    asking.call("GET", "/show/", endpoint="show")
    assert fake_clock.slept == [30.0]


def test_a_quota_that_is_used_up_makes_nobody_wait_for_ever(vendor: Vendor, fake_clock: FakeClock) -> None:
    asking = api(vendor, fake_clock)
    vendor.fail("GET", "/x/", Reply(429, {"error": "search_quota_exceeded"}))
    with pytest.raises(RateLimited):
        asking.call("GET", "/x/", endpoint="search")
    asking.call("GET", "/x/", endpoint="search")
    assert fake_clock.slept == [60.0]


@pytest.mark.parametrize(
    "url",
    [
        "http://vast.example",  # the key would travel in the clear
        "https://user:pw@vast.example",
        "https://vast.example/?api_key=1",
        "https://vast.example/#x",
        "ftp://vast.example",
        "vast.example",
        "https://",
        "",
    ],
)
def test_an_address_that_would_show_the_key_is_refused_and_not_repeated(url: str, fake_clock: FakeClock) -> None:
    with pytest.raises(UsageError) as raised:
        Api(url, lambda: ApiKey("vast", SECRET, "x"), provider="vast", clock=fake_clock, pauses={})
    assert "pw" not in raised.value.what + raised.value.why


def test_a_proxy_has_no_part_in_what_this_machine_asks_itself(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert api(vendor).call("GET", "/x/", endpoint="x") == {"ok": True}


@pytest.mark.parametrize(
    ("variable", "value"),
    [("https_proxy", "gopher://x"), ("ALL_PROXY", "socks5://127.0.0.1:1"), ("SSL_CERT_FILE", "/no/such/file")],
)
def test_settings_of_this_machine_that_make_no_sense_are_named(
    variable: str, value: str, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    key = ApiKey("vast", SECRET, "x")
    asking = Api("https://vast.example", lambda: key, provider="vast", clock=fake_clock, pauses={})
    with pytest.raises(LocalFault) as raised:
        asking.call("PUT", "/x/", endpoint="x", may_bill=True)
    assert "proxy" in raised.value.hint
    assert raised.value.why


def test_the_key_is_looked_for_at_the_first_question_and_once(vendor: Vendor, fake_clock: FakeClock) -> None:
    found: list[str] = []

    def find() -> ApiKey:
        found.append("once")
        return ApiKey("vast", SECRET, "x")

    asking = Api(vendor.url, find, provider="vast", clock=fake_clock, pauses={})
    assert found == []
    for _ in range(2):
        asking.call("GET", "/x/", endpoint="x")
    assert found == ["once"]


def test_a_field_is_read_as_the_type_that_is_needed_or_is_an_error_with_its_name() -> None:
    row = {"text": " a ", "number": "1.5", "whole": 3.0, "flag": True, "null": None, "empty": ""}
    fields = Fields.of(row, "an offer")
    assert (fields.text("text"), fields.number("number"), fields.whole("whole")) == ("a", 1.5, 3)
    assert (fields.flag("flag"), fields.flag("null"), fields.text("null", "-")) == (True, False, "-")
    assert fields.optional_number("empty") is fields.optional_number("absent") is None
    wrong: list[tuple[Any, str]] = [
        (lambda f: f.number("v"), json.dumps(value)) for value in ("abc", "nan", "inf", True, [], {}, None)
    ]
    wrong += [(lambda f: f.whole("v"), "1.5"), (lambda f: f.flag("v"), "1"), (lambda f: f.text("v"), "[]")]
    for read, value in wrong:
        with pytest.raises(ProviderError) as raised:
            read(Fields.of({"v": json.loads(value)}, "an offer"))
        assert raised.value.what == "an offer is not readable"
        assert "`v`" in raised.value.why
    for value in (None, [], "x", 3):
        with pytest.raises(ProviderError):
            Fields.of(value, "an offer")
