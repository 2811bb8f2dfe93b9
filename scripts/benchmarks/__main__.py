"""Run the measurements named, or all; print one JSON object of their results.

Each measurement is a program of its own in this folder: a table on stderr, one
JSON object on stdout.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
MEASUREMENTS = (
    "startup",
    "install_size",
    "pull_checkpoint",
    "train_step",
    "encode",
    "input_pipeline",
    "generate",
    "post_training",
)


def main() -> None:
    names = sys.argv[1:] or list(MEASUREMENTS)
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        sys.exit(f"error: no measurement {', '.join(unknown)}\nhint:  choose from {', '.join(MEASUREMENTS)}")
    results: dict[str, object] = {"machine": platform.platform(), "python": platform.python_version()}
    for name in names:
        print(f"── {name}", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, str(HERE / f"{name}.py")], stdout=subprocess.PIPE, text=True)
        results[name] = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.returncode}
    print(json.dumps(results, indent=2))
    sys.exit(any(isinstance(result, dict) and "failed" in result for result in results.values()))


if __name__ == "__main__":
    main()
