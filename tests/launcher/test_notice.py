"""Telling a user who is not looking: by their command, by a webhook, and never as a reason to stop."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.managed.news import Event, News
from launcher.managed.notice import Notifier
from launcher.spec.notify import NotifySpec
from trainer.config import ConfigError, validated

NEWS = News(Event.PREEMPTION, "demo-1a2b", "demo", "demo-1", "box", "the machine's gone; $(touch evil)", 1.23456, 40)


def told(spec: NotifySpec, environment: dict[str, str] | None = None, news: News = NEWS) -> list[str]:
    said: list[str] = []
    Notifier(spec, {"PATH": "/usr/bin:/bin", **(environment or {})}, said.append)(news)
    return said


def test_a_command_gets_the_news_in_its_environment_and_as_json(tmp_path: Path) -> None:
    command = 'printf "%s|%s|%s" "$GPTOPS_EVENT" "$GPTOPS_TEXT" "$GPTOPS_STEP" > "$OUT/env"; cat > "$OUT/json"'
    assert told(NotifySpec(command=command), {"OUT": str(tmp_path)}) == []
    assert (tmp_path / "env").read_text() == "preemption|the machine's gone; $(touch evil)|40"
    assert json.loads((tmp_path / "json").read_text())["spent_usd"] == 1.2346
    assert sorted(path.name for path in tmp_path.iterdir()) == ["env", "json"]


def test_a_command_that_fails_is_said_and_no_more() -> None:
    assert told(NotifySpec(command="echo no mail here >&2; exit 3")) == [
        "notify.command ended with exit code 3: no mail here"
    ]


def test_what_is_not_wanted_is_not_told(tmp_path: Path) -> None:
    spec = NotifySpec(command='touch "$OUT/told"', on=("end",))
    assert told(spec, {"OUT": str(tmp_path)}) == []
    assert list(tmp_path.iterdir()) == []


@contextmanager
def webhook(code: int) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """A server that answers `code`, and what it was told."""
    got: list[dict[str, object]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(code)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook/secret", got
        server.shutdown()
        thread.join()


def test_a_webhook_gets_json() -> None:
    with webhook(204) as (url, got):
        assert told(NotifySpec(webhook="HOOK"), {"HOOK": url}) == []
    assert [(body["event"], body["text"], body["job"]) for body in got] == [("preemption", NEWS.text, "demo")]


def test_a_webhook_that_refuses_is_said_without_its_address() -> None:
    with webhook(500) as (url, _):
        said = told(NotifySpec(webhook="HOOK"), {"HOOK": url})
    assert said == ["notify.webhook answered 500"]


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "http://127.0.0.1:1/secret", "http://[broken/secret"])
def test_a_webhook_that_is_no_use_is_said_without_its_address(url: str) -> None:
    [said] = told(NotifySpec(webhook="HOOK"), {"HOOK": url})
    assert said.startswith("notify.webhook")
    assert "secret" not in said


def test_an_address_in_jobs_yaml_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(
            NotifySpec, {"webhook": "https://hooks.example.org/secret"}, at="jobs.demo.notify", source="jobs.yaml"
        )
    assert "NAME of a variable" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_list_of_events_is_what_yaml_writes() -> None:
    assert validated(NotifySpec, {"on": ["end", "budget"]}, source="jobs.yaml").on == ("end", "budget")
    with pytest.raises(ConfigError):
        validated(NotifySpec, {"on": ["never"]}, source="jobs.yaml")
