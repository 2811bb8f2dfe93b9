"""The process in which a user's functions run: JSON lines in, JSON lines out, nothing of ours imported.

    {"use": "FILE:FUNCTION"}                        load it             → {"problem": ""}
    {"use": "FILE:FUNCTION", "arguments": {…}}      call it             → {"value": …} or {"problem": "ValueError: …"}

With `"leave_out": true` beside it, arguments that the function does not take are left out.

Started by trainer.rewards.calling, which ends it where a call takes too long. It ends by itself when its input does,
even while a function hangs.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

_loaded: dict[str, Callable[..., Any]] = {}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training's to hear
    sys.path[0] = os.getcwd()  # not the folder of this file, whose modules have common names
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a function prints must not be taken for an answer
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        _answer(json.loads(requests.get()), answers)


def _read(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # nobody waits for an answer any more


def _answer(request: dict[str, Any], answers: TextIO) -> None:
    try:
        function = _function(request["use"])
        answer = {"problem": ""}
        if "arguments" in request:
            taken = _taken(function, request["arguments"]) if request.get("leave_out") else request["arguments"]
            answer = {"value": _as_json(function(**taken))}
        text = json.dumps(answer)
    except BaseException as error:  # noqa: BLE001  whatever a user's code raises, sys.exit included, is an answer
        text = json.dumps({"problem": f"{type(error).__name__}: {error}"[:500]})
    answers.write(text + "\n")
    answers.flush()


def _function(use: str) -> Callable[..., Any]:
    if use not in _loaded:
        path, _, name = use.rpartition(":")
        sys.path.insert(1, os.path.dirname(os.path.abspath(path)))  # its neighbours may be imported
        spec = importlib.util.spec_from_file_location(f"user_functions_{len(_loaded)}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        found = getattr(module, name, None)
        if not callable(found):
            raise AttributeError(f"it has no function `{name}`")
        _loaded[use] = found
    return _loaded[use]


def _taken(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return arguments
    names = {each.name for each in parameters}
    return {name: value for name, value in arguments.items() if name in names}


def _as_json(value: Any) -> Any:
    """A number of numpy or torch as a number; whatever else is no JSON as text."""
    if hasattr(value, "item") and callable(value.item):
        return value.item()
    try:
        json.dumps(value)
    except TypeError:
        return str(value)
    return value


if __name__ == "__main__":
    main()
