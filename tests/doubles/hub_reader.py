"""A process that prepares corpora from the hub double: HF_ENDPOINT must be set before anything of the hub is imported.

Reads one JSON object a line, {"data": {...}, "out": FOLDER, "kill_after": N or null}, or {"argv": [...]} for a command
of the trainer, and answers each with one line.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.doubles.hub import Hub

ROOT = Path(__file__).parents[2]


class HubReader:
    """The process, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def trainer(self, *argv: str) -> tuple[int, str]:
        """The exit code of `python -m trainer ARGV`, and what it printed on both streams."""
        result = self._answer({"argv": list(argv)})
        return result["code"], result["said"]

    def prepare(self, out: Path, *, kill_after: int | None = None, **data: Any) -> dict[str, Any]:
        """What came of it: identity, tokens, documents, text and said; or `error`, with what, why and hint."""
        order = {"data": {"tokenizer": {"kind": "bytes"}, **data}, "out": str(out), "kill_after": kill_after}
        return self._answer(order, may_die=kill_after is not None)

    def _answer(self, order: dict[str, Any], *, may_die: bool = False) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer or may_die, "the reader died"
        result: dict[str, Any] = json.loads(answer) if answer else {}
        return result


@contextmanager
def hub_reader(endpoint: str, home: Path) -> Iterator[HubReader]:
    """A reader of the hub at `endpoint`, with a cache of its own, until the block ends."""
    hub = Hub()
    hub.endpoint = endpoint
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.doubles.hub_reader"],
        cwd=ROOT,
        env={**hub.environment(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield HubReader(process)
    finally:
        process.kill()
        process.communicate()


def _serve() -> None:
    import time

    from trainer.data import encoding

    # What waits for the hub here would only make the tests slow. Whoever is waited for answers at once.
    time.sleep = lambda seconds: None
    encoding.BATCH_CHARACTERS = 2000
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_ran(order["argv"]) if "argv" in order else _prepared(order)), flush=True)


def _ran(argv: list[str]) -> dict[str, Any]:
    from trainer.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(argv)
    return {"code": int(code), "said": said.getvalue()}


def _prepared(order: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from trainer.config import run_config
    from trainer.data import prepare
    from trainer.errors import TrainerError

    said: list[Any] = []

    def report(progress: Any) -> None:
        said.append(progress)
        if order["kill_after"] is not None and len(said) > order["kill_after"]:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        config = run_config({"data": order["data"]}, source="test").data
        shards = prepare(config, Path(order["out"]), report, shard_tokens=5000)
    except TrainerError as error:
        return {"error": {"what": error.what, "why": error.why, "hint": error.hint}}
    ids = np.empty(shards.tokens, np.int64)
    shards.copy_into(ids, 0)
    return {
        "identity": shards.identity,
        "tokens": shards.tokens,
        "documents": shards.documents,
        "version": shards.index.version,
        "text": shards.load_tokenizer().decode(ids),
        "said": len(said),
        "shares": [progress.share for progress in said],
    }


if __name__ == "__main__":
    _serve()
