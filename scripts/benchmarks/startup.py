"""How long `gptops --help` and `gptops ps` take, in turn with a minimal Typer app in the same environment.

A whole process each time, output thrown away, caches warm; medians and their ratio.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 21
PEER = """
import typer

app = typer.Typer()


@app.command()
def ps(as_json: bool = typer.Option(False, "--json")) -> None:
    "List what is open."
    print("nothing")


@app.command()
def down(host: str) -> None:
    "Close a host."
    print(host)


app()
"""


def seconds(argv: list[str], environment: dict[str, str]) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        peer = Path(folder) / "peer.py"
        peer.write_text(PEER)
        (Path(folder) / "run_peer.py").write_text(f"import sys; sys.path.insert(0, {folder!r}); import peer")
        environment = {**os.environ, "GPTOPS_HOME": folder}
        gptops = str(Path(sys.executable).with_name("gptops"))
        run_peer = [sys.executable, str(Path(folder) / "run_peer.py")]
        results = {}
        for verb, words in (("--help", ["--help"]), ("ps", ["ps"])):
            ours, theirs = [], []
            for round_number in range(ROUNDS + 2):  # the first two warm the caches
                pair = seconds([gptops, *words], environment), seconds([*run_peer, *words], environment)
                if round_number >= 2:
                    ours.append(pair[0])
                    theirs.append(pair[1])
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            results[verb] = {
                "gptops_ms": round(statistics.median(ours) * 1000, 1),
                "minimal_typer_ms": round(statistics.median(theirs) * 1000, 1),
                "ratio": round(ratio, 3),
            }
            print(f"gptops {verb:<7} {results[verb]}", file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
