"""The API key of a cloud: from the environment, the vendor's own file, or the system's keyring.

Never from jobs.yaml or a command line, and never into one: an ApiKey does not
show its secret, neither printed nor in a traceback.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import KeyRefused, UsageError

KEYRING_SERVICE = "gptops"
_MOST_BYTES = 100_000


class NoKey(KeyRefused):
    """None was found, wherever one may stand."""


@dataclass(frozen=True)
class ApiKey:
    """One key, and where it came from."""

    provider: str
    secret: str = field(repr=False)
    origin: str
    """`$VAST_API_KEY`, a path, or `the system's keyring`."""
    file: Path | None = None

    @property
    def readable_by_others(self) -> bool:
        """Whether other users of this machine can read the file it lies in."""
        return self.file is not None and bool(self.file.stat().st_mode & 0o077)


@dataclass(frozen=True)
class _Source:
    """Where one vendor's key is looked for, in this order, and where a person gets one."""

    variables: tuple[str, ...]
    files: Callable[[], tuple[Path, ...]]
    read: Callable[[str], str]
    page: str


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _whole(text: str) -> str:
    return text.strip()


def _assigned(text: str) -> str:
    """`apikey = "…"` (runpodctl), `api_key = "…"` (the SDK); comments and other lines are left alone."""
    found = re.search(r"^\s*[\"']?api_?key[\"']?\s*[=:]\s*[\"']?([^\"'#\s]+)", text, re.I | re.M)
    return found[1] if found else ""


SOURCES: Mapping[str, _Source] = {
    "vast": _Source(
        ("VAST_API_KEY",),
        lambda: (_config_home() / "vastai" / "vast_api_key", Path.home() / ".vast_api_key"),
        _whole,
        "https://cloud.vast.ai/manage-keys/",
    ),
    "runpod": _Source(
        ("RUNPOD_API_KEY",),
        lambda: (Path.home() / ".runpod" / "config.toml",),
        _assigned,
        "https://console.runpod.io/user/settings",
    ),
    "lambda_cloud": _Source(
        ("LAMBDA_API_KEY",),
        lambda: (Path.home() / ".lambda_cloud" / "lambda_keys",),
        _assigned,
        "https://cloud.lambda.ai/api-keys",
    ),
}


def api_key(provider: str) -> ApiKey:
    """The key for `provider`. Raises KeyRefused, with where to get one, where there is none or it cannot be one."""
    source = SOURCES[provider]
    for variable in source.variables:
        if os.environ.get(variable, "").strip():
            return _checked(ApiKey(provider, os.environ[variable].strip(), f"${variable}"))
    for path in source.files():
        secret = source.read(_text(path))
        if secret:
            return _checked(ApiKey(provider, secret, str(path), path))
    secret = _from_keyring(provider)
    if secret:
        return _checked(ApiKey(provider, secret, "the system's keyring"))
    looked = [f"${name}" for name in source.variables] + [str(path) for path in source.files()]
    raise NoKey(
        f"there is no API key for `{provider}`",
        why=f"looked at {', '.join(looked)}" + (" and the system's keyring" if _has_keyring() else ""),
        hint=where_to_get(provider),
    )


def where_to_get(provider: str) -> str:
    """The hint of every error about a key."""
    source = SOURCES.get(provider)
    if source is None:
        return "--provider local needs no key"
    return f"export {source.variables[0]}=…   # get one at {source.page}; --provider local needs none"


def where_to_allow(provider: str) -> str:
    """The hint where a good key may not do what was asked."""
    source = SOURCES.get(provider)
    page = f" at {source.page}" if source else ""
    return f"give the key the right to do it{page}; the provider's page in docs/ lists what gptops needs"


def require_safe_address(base_url: str) -> str:
    """The address without a slash at its end. Raises UsageError for one that would show the key to others."""
    found = re.fullmatch(r"(https?)://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?(/[^\s?#@]*)?", base_url)
    if found is None:
        raise UsageError(
            "the address of an API must look like https://name/path",
            why="it has something else in it, perhaps a key",
            hint="env | grep -i url",
        )
    if found[1] == "http" and not is_loopback(found[2]):
        raise UsageError(f"{base_url} would carry the API key in the clear", hint="write https:// instead of http://")
    return base_url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether this name can only mean this machine."""
    return host in ("localhost", "[::1]", "::1") or re.fullmatch(r"127\.\d{1,3}\.\d{1,3}\.\d{1,3}", host) is not None


def _checked(key: ApiKey) -> ApiKey:
    """It will stand in a header: a line break or a letter beyond ASCII would break it, or smuggle another one in."""
    if not re.fullmatch(r"[\x21-\x7e]{1,4096}", key.secret):
        raise KeyRefused(
            f"what {key.origin} holds is no API key for `{key.provider}`",
            why="it has spaces, line breaks or letters beyond ASCII in it",
            hint=where_to_get(key.provider),
        )
    return key


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise KeyRefused(f"cannot read the key in {path}", why=str(error.strerror), hint=f"ls -l {path}") from error


def _has_keyring() -> bool:
    return importlib.util.find_spec("keyring") is not None


def _from_keyring(provider: str) -> str:
    """`keyring set gptops vast`. The package is the user's to install; without it nothing is asked."""
    if not _has_keyring():
        return ""
    keyring = importlib.import_module("keyring")  # late: optional, and it may ask the desktop to unlock itself
    try:
        return (keyring.get_password(KEYRING_SERVICE, provider) or "").strip()
    except keyring.errors.KeyringError:
        return ""  # locked, or none on this machine
