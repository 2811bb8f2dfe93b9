"""Do one thing on several machines at once, and tell whose error it was.

The only threads of the launcher besides those that hash: a machine's answer takes as long as its network, and N
machines must not take N times as long. What a thread uses (a connection, a ledger) is its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from launcher.errors import GptopsError

T = TypeVar("T")


def together(names: Sequence[str], act: Callable[[int], T]) -> list[T]:
    """What `act` returned for each machine, in their order. Raises the first error, under its machine's name.

    All are waited for, so that nothing goes on behind an error.
    """
    futures = _done(names, act)
    failed = [(name, error) for name, future in zip(names, futures, strict=True) if (error := _ours(future))]
    for name, error in failed:
        raise on_node(name, error, [other for other, _ in failed if other != name]) from error
    return [future.result() for future in futures]


def each(names: Sequence[str], act: Callable[[int], T]) -> list[T | GptopsError]:
    """The same, with a machine's error in its place."""
    answers: list[T | GptopsError] = []
    for name, future in zip(names, _done(names, act), strict=True):
        error = _ours(future)
        answers.append(on_node(name, error) if error else future.result())
    return answers


def on_node(name: str, error: GptopsError, others: Sequence[str] = ()) -> GptopsError:
    """The error with its machine's name in it, and which others failed too."""
    named = copy.copy(error)
    if f"`{name}`" not in error.what:
        named.what = f"`{name}`: {error.what}"
        named.args = (named.what,)
    if others:
        named.why = f"{error.why}; failed too: {', '.join(others)}".removeprefix("; ")
    return named


def _done(names: Sequence[str], act: Callable[[int], T]) -> list[Future[T]]:
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        return [pool.submit(act, number) for number in range(len(names))]


def _ours(future: Future[T]) -> GptopsError | None:
    error = future.exception()
    return error if isinstance(error, GptopsError) else None
