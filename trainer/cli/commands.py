"""The commands, in the order of `python -m trainer --help`."""

from __future__ import annotations

from trainer.cli import all, config, evaluate, export, generate, merge, plot, prepare, reward, show, tokenizer, train

COMMANDS = (
    train,
    all,
    prepare,
    tokenizer,
    show,
    reward,
    evaluate,
    generate,
    export,
    merge,
    plot,
    config,
)
