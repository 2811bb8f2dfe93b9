"""`gptops`: parses the command line, calls one function, shows what it returns or why it failed.

    gptops check demo
    gptops train demo
    gptops sync --watch

Nothing that escapes a verb reaches the user as a traceback: what they, a file or
the network did is an error with its own exit code (docs/exit-codes.md), and
what we did is said in one line, with the traceback in a file to report.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence

import typer
import typer.main

import launcher
from launcher import console
from launcher.cli.verbs import Escaped, VerbGroup
from launcher.errors import ExitCode, GptopsError, JobsError, LocalFault, UsageError
from trainer.errors import TrainerError

app = typer.Typer(cls=VerbGroup, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})

_OUTPUT_CLOSED = 141
"""What a shell says of a program that died of SIGPIPE."""


def _show_version(wanted: bool) -> None:
    if wanted:
        console.emit(f"gptops {launcher.__version__}")
        raise typer.Exit


@app.callback()
def gptops(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Rent GPUs, train a GPT on them, bring every checkpoint home verified, and close what costs money."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = typer.main.get_command(app)(args=words, prog_name="gptops", standalone_mode=False)
        sys.stdout.flush()
    except Escaped as error:
        return _failed(error.__cause__ or error, words)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where everything ends
        return _failed(error, words)
    return code if isinstance(code, int) else ExitCode.OK


def _failed(error: BaseException, words: list[str]) -> int:
    """Say what went wrong, as text or, with --json, as JSON on stdout."""
    if isinstance(error, console.OutputClosed):
        return _OUTPUT_CLOSED
    if isinstance(error, (KeyboardInterrupt, EOFError, typer.Abort)):
        console.say("interrupted")
        return ExitCode.INTERRUPTED
    known = _known(error, words) or _bug(error)
    if _wants_json(words):
        console.emit_json(console.error_json(known))
    else:
        console.show_error(known)
    return int(known.exit_code)


def _known(error: BaseException, words: list[str]) -> GptopsError | None:
    """`error` as one of ours; None for a bug."""
    if isinstance(error, GptopsError):
        return error
    if isinstance(error, TrainerError):
        return JobsError(error.what, why=error.why, hint=error.hint)
    if isinstance(error, typer.TyperException):
        verb = next((word for word in words if not word.startswith("-")), "")
        return UsageError(error.format_message().rstrip("."), hint=f"gptops {verb} --help".replace("  ", " "))
    if isinstance(error, OSError) and error.errno in _NOT_OURS:
        what = f"cannot use `{os.fsdecode(error.filename)}`" if error.filename else "this machine refused"
        return LocalFault(what, why=error.strerror or type(error).__name__, hint=_NOT_OURS[error.errno])
    return None


_NOT_OURS = {
    errno.ENOSPC: "make room on that disk and run the command again; nothing is lost",
    errno.EDQUOT: "make room in your quota and run the command again; nothing is lost",
    errno.EROFS: "gptops doctor",
    errno.EACCES: "gptops doctor",
    errno.EPERM: "gptops doctor",
    errno.ENOENT: "gptops doctor",
    errno.EMFILE: "ulimit -n 4096",
}
"""What a machine can refuse at any moment, with the hint. Another OSError should have been caught where it happened."""


def _bug(error: BaseException) -> GptopsError:
    """Our own fault: keep the traceback where it can be reported from."""
    # Late: platformdirs and the clock are of no use to a command that works.
    from launcher.clock import SystemClock
    from launcher.paths import state_paths

    text = "".join(traceback.format_exception(error))
    report = state_paths().root / "bugs" / f"{int(SystemClock().now())}-{os.getpid()}.txt"
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(text, encoding="utf-8", errors="backslashreplace")
        report.chmod(0o600)
    except OSError as unwritable:
        console.say(text)
        return GptopsError("a bug in gptops", why=f"the traceback above could not be kept: {unwritable.strerror}")
    return GptopsError(
        f"a bug in gptops: {type(error).__name__}: {error}",
        why="nothing you did should end like this",
        hint=f"report it with the traceback in {report}",
    )


def _wants_json(words: list[str]) -> bool:
    return "--json" in (words[: words.index("--")] if "--" in words else words)
