"""Where a cloud's API key comes from, and what is said where there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from launcher.errors import ExitCode, KeyRefused
from launcher.providers.api_keys import SOURCES, api_key

FILES = {
    "vast": (".config/vastai/vast_api_key", "{}\n"),
    "runpod": (".runpod/config.toml", '# mine\napikey = "{}"  # from the console\napiurl = "https://x"\n'),
    "lambda_cloud": (".lambda_cloud/lambda_keys", "api_key = {}\n"),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any key."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("provider", SOURCES)
def test_the_environment_comes_before_the_vendors_own_file(
    provider: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, form = FILES[provider]
    path = write(home / place, form.format("from-file"))
    found = api_key(provider)
    assert (found.secret, found.origin, found.file) == ("from-file", str(path), path)
    [variable] = SOURCES[provider].variables
    monkeypatch.setenv(variable, " from-environment\n")
    found = api_key(provider)
    assert (found.secret, found.origin, found.file) == ("from-environment", f"${variable}", None)


def test_vasts_older_file_and_a_moved_configuration_are_known(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".vast_api_key", "older")
    assert api_key("vast").secret == "older"
    write(home / "elsewhere" / "vastai" / "vast_api_key", "moved")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "elsewhere"))
    assert api_key("vast").secret == "moved"


def test_the_sdks_form_of_runpods_file_is_read_too(home: Path) -> None:
    write(home / ".runpod/config.toml", '[default]\napi_key = "rpa_1"\n')
    assert api_key("runpod").secret == "rpa_1"


@pytest.mark.parametrize("provider", SOURCES)
def test_no_key_says_where_one_was_looked_for_and_where_to_get_one(provider: str, home: Path) -> None:
    with pytest.raises(KeyRefused) as raised:
        api_key(provider)
    error = raised.value
    assert error.exit_code == ExitCode.KEY
    assert f"${SOURCES[provider].variables[0]}" in error.why
    assert str(home / FILES[provider][0]) in error.why
    assert SOURCES[provider].page in error.hint
    assert "--provider local needs none" in error.hint


@pytest.mark.parametrize("value", ["two words", "line\nbreak", "schlüssel", "nul\0", "x" * 5000])
def test_what_cannot_stand_in_a_header_is_refused_and_not_shown(value: str, home: Path) -> None:
    write(home / ".vast_api_key", value)
    with pytest.raises(KeyRefused) as raised:
        api_key("vast")
    error = raised.value
    assert value not in error.what + error.why + error.hint
    assert str(home / ".vast_api_key") in error.what


def test_an_empty_or_huge_file_holds_no_key(home: Path) -> None:
    write(home / ".vast_api_key", " \n")
    with pytest.raises(KeyRefused, match="there is no API key"):
        api_key("vast")
    write(home / ".vast_api_key", "x" * 200_000)
    with pytest.raises(KeyRefused, match="there is no API key"):
        api_key("vast")


def test_a_folder_in_the_place_of_the_file_is_said(home: Path) -> None:
    (home / ".vast_api_key").mkdir()
    with pytest.raises(KeyRefused, match="cannot read the key"):
        api_key("vast")


def test_a_key_file_that_others_can_read_shows_it(home: Path) -> None:
    path = write(home / ".vast_api_key", "k", 0o644)
    assert api_key("vast").readable_by_others
    path.chmod(0o600)
    assert not api_key("vast").readable_by_others


def test_the_keyring_is_asked_last_where_its_package_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = _keyring({("gptops", "vast"): "from-keyring"})
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    found = api_key("vast")
    assert (found.secret, found.origin) == ("from-keyring", "the system's keyring")
    with pytest.raises(KeyRefused) as raised:
        api_key("runpod")
    assert "the system's keyring" in raised.value.why


def test_a_locked_keyring_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", _keyring({}))
    with pytest.raises(KeyRefused, match="there is no API key"):
        api_key("vast")


def test_the_secret_is_not_shown() -> None:
    key = api_key_of("hidden")
    assert "hidden" not in repr(key) + str(key)


def api_key_of(secret: str) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAST_API_KEY", secret)
        return api_key("vast")


def _keyring(passwords: dict[tuple[str, str], str]) -> ModuleType:
    """The package as far as it is used: a stranger's, so a stand-in; an unknown entry acts as a locked ring."""

    class KeyringError(Exception):
        pass

    def get_password(service: str, name: str) -> str:
        if (service, name) not in passwords:
            raise KeyringError("locked")
        return passwords[service, name]

    module, errors = ModuleType("keyring"), ModuleType("keyring.errors")
    module.__spec__ = __spec__
    vars(errors)["KeyringError"] = KeyringError
    vars(module).update(errors=errors, get_password=get_password)
    return module
