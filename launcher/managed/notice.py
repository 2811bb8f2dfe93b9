"""Telling a user who is not looking: their own command, or a webhook. Never a reason to stop.

The command gets the news in its environment, as GPTOPS_EVENT, GPTOPS_TEXT and so
on, and as JSON on stdin. A webhook gets the JSON by POST; its address is often a
secret, so jobs.yaml names the environment variable that holds it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from launcher.managed.news import News
from launcher.spec.notify import NotifySpec

COMMAND_SECONDS = 30.0
WEBHOOK_SECONDS = 15.0


@dataclass(frozen=True)
class Notifier:
    """Tells what `spec` wants told; `say` hears of what went wrong with that."""

    spec: NotifySpec
    environment: Mapping[str, str]
    say: Callable[[str], None]

    def __call__(self, news: News) -> None:
        """Tell it, within a time limit."""
        if news.event.value not in self.spec.on:
            return
        if self.spec.command:
            self._run(self.spec.command, news)
        if self.spec.webhook:
            self._post(self.spec.webhook, news)

    def _run(self, command: str, news: News) -> None:
        told = {name: "" if value is None else str(value) for name, value in news.fields().items()}
        try:
            done = subprocess.run(
                ["sh", "-c", command],
                input=json.dumps(news.fields()),
                env={**self.environment, **{f"GPTOPS_{name.upper()}": value for name, value in told.items()}},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_SECONDS,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            self.say(f"notify.command did not end within {COMMAND_SECONDS:.0f} s, and was ended")
        except OSError as error:
            self.say(f"notify.command could not be started: {error.strerror}")
        else:
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                self.say(f"notify.command ended with exit code {done.returncode}: {last}")

    def _post(self, variable: str, news: News) -> None:
        import urllib.error  # late: with http.client and ssl 30 ms, for those who have a webhook
        import urllib.request

        url = self.environment.get(variable, "")
        if not url.startswith(("https://", "http://")):
            self.say(f"notify.webhook: the variable {variable} holds no URL")
            return
        body = json.dumps({**news.fields(), "content": news.text}).encode()  # `content`, `text`: what chats show
        headers = {"Content-Type": "application/json", "User-Agent": "gptops"}
        try:
            request = urllib.request.Request(url, body, headers)
            with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS) as answer:
                answer.read(1 << 16)
        except urllib.error.HTTPError as error:
            with error:
                self.say(f"notify.webhook answered {error.code}")
        except (OSError, ValueError) as error:  # the text may hold the address: only its kind is told
            self.say(f"notify.webhook could not be reached ({type(error).__name__})")


def notifier(spec: NotifySpec, say: Callable[[str], None]) -> Notifier:
    """With this process's environment."""
    return Notifier(spec, os.environ, say)
