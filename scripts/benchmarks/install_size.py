"""How large the base install is: a new environment, `pip install gptops` from this clone, bytes of site-packages.

pip itself is not counted: every environment has it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", ROOT]
        subprocess.run(install, check=True, stdout=sys.stderr)
        site = next(Path(folder).glob("lib/python*/site-packages"))
        sizes: dict[str, int] = {}
        for path in site.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                package = path.relative_to(site).parts[0]
                sizes[package] = sizes.get(package, 0) + path.stat().st_size
    ours = {name: size for name, size in sizes.items() if not name.startswith(("pip", "setuptools"))}
    megabytes = sum(ours.values()) / 1e6
    largest = sorted(ours.items(), key=lambda item: -item[1])[:5]
    print(
        f"base install {megabytes:.1f} MB; largest: " + ", ".join(f"{n} {s / 1e6:.1f}" for n, s in largest),
        file=sys.stderr,
    )
    print(json.dumps({"site_packages_mb": round(megabytes, 1)}))


if __name__ == "__main__":
    main()
