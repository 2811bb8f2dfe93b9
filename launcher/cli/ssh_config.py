"""`gptops ssh-config`: plain `ssh` and `rsync` to open hosts, for those who want them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher import console
from launcher.cli.options import Json, examples

app = typer.Typer()


@app.command(
    name="ssh-config",
    epilog=examples(
        "gptops ssh-config --install",
        "ssh gptops-local-3f2a nvidia-smi",
        "rsync -a gptops-local-3f2a:gptops/demo-1a2b/logs .",
        "gptops ssh-config --uninstall",
        "gptops ssh-config --json | jq -r '.hosts[]'",
    ),
)
def ssh_config(
    install: Annotated[
        bool, typer.Option("--install", help="Put one Include line into ~/.ssh/config. Again changes nothing.")
    ] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Take that line away.")] = False,
    file: Annotated[Path | None, typer.Option(help="Another file than ~/.ssh/config.")] = None,
    as_json: Json = False,
) -> None:
    """Let plain `ssh gptops-HOST` and `rsync gptops-HOST:…` find the open hosts.

    Prints the line to include; writes it only when told to. Every other line of your file stays as it is. Hosts come
    and go by themselves after that, each with the host key that gptops has pinned.
    """
    from launcher.books.ledger import InstanceState, Ledger
    from launcher.clock import SystemClock
    from launcher.errors import UsageError
    from launcher.paths import state_paths
    from launcher.remote.ssh_include import UserConfig, include_line, user_config, write_include

    if install and uninstall:
        raise UsageError("these two exclude each other", hint="gptops ssh-config --help")
    state, yours = state_paths(), UserConfig(file) if file else user_config()
    changed = False
    if install or uninstall:
        changed = yours.install(state) if install else yours.uninstall()
    else:
        write_include(state)
    included = yours.includes(state)
    with Ledger(state.ledger, SystemClock()) as ledger:
        hosts = [f"gptops-{row.name}" for row in ledger.instances(InstanceState.OPEN)]
    if as_json:
        answer = {"file": str(yours.path), "line": include_line(state), "included": included, "changed": changed}
        console.emit_json({**answer, "hosts": hosts})
        return
    console.emit(include_line(state))
    if included:
        console.say(f"{yours.path} has it; hosts now: {', '.join(hosts) or 'none is open'}")
    else:
        console.say(f"{yours.path} does not have it; `gptops ssh-config --install` puts it there")
