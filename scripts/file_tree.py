"""The file tree of the README: every source file with the first sentence of its docstring.

    python scripts/file_tree.py            print it
    python scripts/file_tree.py --write    put it into README.md, between its two marks

So the tree cannot tell another story than the code; tests/test_readme.py holds the two together.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("launcher", "trainer", "templates", "scripts")
BEGIN, END = "<!-- file tree: python scripts/file_tree.py --write -->", "<!-- end of file tree -->"


def file_tree() -> str:
    """The tree as a Markdown code block."""
    lines = ["```"]
    for folder in FOLDERS:
        listed = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, check=True).stdout
        files = sorted(Path(name) for name in listed.decode().split("\0") if name and (ROOT / name).is_file())
        shown: set[Path] = set()
        for file in sorted(files, key=lambda path: (path.parent.parts, path.name)):
            if file.parent not in shown:
                shown.add(file.parent)
                indent = "  " * (len(file.parent.parts) - 1)
                lines.append(_line(indent, f"{file.parent.name}/", ROOT / file.parent / "__init__.py"))
            if file.name != "__init__.py":
                indent = "  " * len(file.parent.parts)
                lines.append(_line(indent, file.name, ROOT / file))
    return "\n".join([*lines, "```"])


def sentence(path: Path) -> str:
    """The first sentence of what a file says about itself; "" where it says nothing."""
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    elif text.startswith("#"):
        comments = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#")]
        said = next((line for line in comments if line and not line.startswith("!")), "")
    else:
        said = ""
    first = re.split(r"(?<=[.!?])\s", " ".join(said.split("\n\n")[0].split()))[0]
    return first.removeprefix(f"{path.name}: ").rstrip(".")


def _line(indent: str, name: str, described_in: Path) -> str:
    return f"{indent}{name:<{26 - len(indent)}} {sentence(described_in)}".rstrip()


def with_tree(readme: str) -> str:
    """The README's text with the tree of today in its place."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{file_tree()}\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        readme = ROOT / "README.md"
        readme.write_text(with_tree(readme.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(file_tree())
