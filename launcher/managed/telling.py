"""What an errand says at its turning points: a line here, and news for whoever is not looking."""

from __future__ import annotations

from launcher.errors import ExitCode, GptopsError
from launcher.managed import training
from launcher.managed.errand import Errand
from launcher.managed.news import Event, News
from launcher.managed.outside import Outside
from launcher.managed.verdict import Facts
from launcher.managed.view import view_of


def show(errand: Errand, facts: Facts, outside: Outside) -> None:
    """One look."""
    view = view_of(
        errand,
        outside.machines(errand),
        facts,
        names=outside.names(errand),
        spent=outside.spent(errand),
        limit=outside.limits(errand).max_usd,
        newest=training.newest_step(errand, outside),
        now=outside.clock.now(),
    )
    outside.show(view)


def moving(errand: Errand, outside: Outside, why: str) -> None:
    """A machine is given up."""
    newest = training.newest_step(errand, outside)
    whence = f"from step {newest}" if newest >= 0 else "from the beginning: no checkpoint is at home yet"
    text = f"{why}; going on elsewhere {whence}"
    outside.talk.notice(text)
    outside.notify(news(Event.PREEMPTION, errand, outside, text))


def budget(errand: Errand, outside: Outside, why: str) -> None:
    """A limit is reached."""
    text = f"stopping `{errand.run_id}`, with time to save: {why}"
    outside.talk.notice(text)
    outside.notify(news(Event.BUDGET, errand, outside, text))


def trouble(errand: Errand, outside: Outside, error: GptopsError) -> None:
    """Somebody has to see to it."""
    outside.notify(news(Event.FAILURE, errand, outside, f"{error.what}: {error.why}"))


def end(errand: Errand, outside: Outside) -> None:
    """It is over."""
    assert errand.ending is not None
    ending = errand.ending
    if ending.exit_code in (ExitCode.OK, ExitCode.STOPPED):
        text = ending.what or f"`{errand.errand_id}` is done and at home"
        outside.notify(news(Event.END, errand, outside, text))
    else:
        event = Event.BUDGET if ending.exit_code == ExitCode.BUDGET else Event.FAILURE
        outside.notify(news(event, errand, outside, ending.what))


def news(event: Event, errand: Errand, outside: Outside, text: str) -> News:
    """With everything a program may want to know."""
    newest = training.newest_step(errand, outside)
    spent = outside.spent(errand)
    step = newest if newest >= 0 else None
    return News(event, errand.errand_id, errand.job, errand.run_id, errand.host_name, text, spent, step)
