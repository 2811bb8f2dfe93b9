"""The verbs, in the order a person meets them, each imported when it is called.

A verb's module has a Typer `app` with the verb as one of its commands. Only
`gptops --help` imports them all; `gptops ps` waits for nobody else's imports.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import Any

import typer.core
import typer.main

from launcher.errors import UsageError


@dataclass(frozen=True)
class Verb:
    """One word after `gptops`."""

    name: str
    module: str
    panel: str
    """The heading it stands under in `gptops --help`."""


class Escaped(Exception):
    """Carries its cause past Typer, which turns Ctrl-C and broken pipes into silent exits."""


PANELS = START, MACHINES, RUNS = "Start", "Machines", "Runs"

VERBS = (
    Verb("init", "launcher.cli.project", START),
    Verb("check", "launcher.cli.project", START),
    Verb("doctor", "launcher.cli.project", START),
    Verb("schema", "launcher.cli.project", START),
    Verb("demo", "launcher.cli.demo", START),
    Verb("run", "launcher.cli.managed", RUNS),
    Verb("watch", "launcher.cli.managed", RUNS),
    Verb("upload", "launcher.cli.project", RUNS),
    Verb("train", "launcher.cli.runs", RUNS),
    Verb("logs", "launcher.cli.runs", RUNS),
    Verb("sync", "launcher.cli.checkpoints", RUNS),
    Verb("stop", "launcher.cli.runs", RUNS),
    Verb("render", "launcher.cli.rendering", RUNS),
    Verb("offers", "launcher.cli.renting", MACHINES),
    Verb("up", "launcher.cli.renting", MACHINES),
    Verb("ps", "launcher.cli.hosts", MACHINES),
    Verb("ssh", "launcher.cli.hosts", MACHINES),
    Verb("ssh-config", "launcher.cli.ssh_config", MACHINES),
    Verb("test-remote", "launcher.cli.preflight", MACHINES),
    Verb("down", "launcher.cli.hosts", MACHINES),
    Verb("cost", "launcher.cli.money", MACHINES),
    Verb("gc", "launcher.cli.money", MACHINES),
)
"""In the order of `gptops --help`, panel by panel."""


class VerbGroup(typer.core.TyperGroup):
    """Finds a verb's command in its module, and lets no exception be swallowed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [verb.name for verb in sorted(VERBS, key=lambda verb: PANELS.index(verb.panel))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            for verb in VERBS:
                if verb.name == cmd_name:
                    self._import(verb.module)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            meant = f" (did you mean `{near[0]}`?)" if near else ""
            raise UsageError(f"there is no verb `{args[0]}`{meant}", hint="gptops --help")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, EOFError, OSError) as error:
            raise Escaped from error

    def _import(self, module: str) -> None:
        """All verbs of one module at once: building their commands is most of what `gptops --help` does."""
        commands = typer.main.get_group(importlib.import_module(module).app).commands
        for verb in VERBS:
            if verb.module == module:
                command = commands[verb.name]
                assert isinstance(command, typer.core.TyperCommand), verb
                command.rich_help_panel = verb.panel
                command.help = _reflowed(command.help or "")
                self.commands[verb.name] = command


def _reflowed(text: str) -> str:
    """A docstring's paragraphs without their line ends, which Typer would show as they stand in the source."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
