"""The commands, in the order of `python -m trainer --help`."""

from __future__ import annotations

from trainer.cli import config, evaluate, generate, prepare, train

COMMANDS = (
    train,
    prepare,
    evaluate,
    generate,
    config,
)
