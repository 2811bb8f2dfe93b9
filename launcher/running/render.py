"""The texts that ship with gptops, first of all the programs that run on a host: from the clone, or from the wheel.

A template is a whole program fed by its environment; nothing is ever put into it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def template(name: str) -> str:
    """The text of `setup.sh`, `run.sh`, …"""
    return _shipped(f"templates/{name}").read_text(encoding="utf-8")


def constraints() -> str:
    """The text of constraints.txt: the one version of every package a host installs."""
    return _shipped("constraints.txt").read_text(encoding="utf-8")


def example_jobs() -> str:
    """The text of the annotated jobs.yaml."""
    return _shipped("jobs.yaml").read_text(encoding="utf-8")


def _shipped(name: str) -> Path:
    """A wheel carries the file inside the package, a clone beside it."""
    inside, beside = _PACKAGE / name, _PACKAGE.parent / name
    return inside if inside.is_file() else beside
