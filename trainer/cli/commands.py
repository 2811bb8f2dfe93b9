"""The commands, in the order of `python -m trainer --help`."""

from __future__ import annotations

from trainer.cli import all, config, evaluate, generate, prepare, tokenizer, train

COMMANDS = (
    train,
    all,
    prepare,
    tokenizer,
    evaluate,
    generate,
    config,
)
