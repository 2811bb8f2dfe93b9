"""What `gptops doctor` says of the clouds' API keys: where they lie, who reads them, who takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.errors import ExitCode
from launcher.hosts.preflight_checks import Check, Verdict
from launcher.key_doctor import key_checks
from launcher.paths import state_paths
from launcher.providers.base import CreateRequest, Wanted
from launcher.providers.by_name import open_provider
from tests.conftest import FakeClock
from tests.doubles.cloud import DROPPED, Cloud, Reply
from tests.doubles.lambda_cloud import LambdaDouble
from tests.doubles.runpod import RunpodDouble
from tests.doubles.vast_cloud import VastCloud

VARIABLES = {
    "vast": ("VAST_API_KEY", "VAST_URL"),
    "runpod": ("RUNPOD_API_KEY", "RUNPOD_REST_URL"),
    "lambda_cloud": ("LAMBDA_API_KEY", "LAMBDA_API_URL"),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any key."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for names in VARIABLES.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    return home


def found(*, online: bool = False) -> dict[str, Check]:
    return {check.name: check for check in key_checks(state_paths(), FakeClock(), online=online)}


def test_a_first_time_user_is_told_where_to_get_a_key_and_that_none_is_needed_to_begin() -> None:
    checks = found()
    assert list(checks) == list(VARIABLES)
    for name, (variable, _) in VARIABLES.items():
        assert checks[name].verdict is Verdict.WARN
        assert f"export {variable}=" in checks[name].todo
        assert "https://" in checks[name].todo
        assert "--provider local needs none" in checks[name].todo


def test_without_a_key_doctor_still_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_a_cloud_without_a_key_is_no_warning_where_another_one_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAST_API_KEY", "secret-of-vast")
    checks = found()
    assert {name: check.verdict for name, check in checks.items()} == dict.fromkeys(VARIABLES, Verdict.PASS)
    assert checks["vast"].found == "API key in $VAST_API_KEY"
    assert "secret-of-vast" not in str(checks)


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("vast", ".config/vastai/vast_api_key", "secret\n"),
        ("runpod", ".runpod/config.toml", 'apikey = "secret"\n'),
        ("lambda_cloud", ".lambda_cloud/lambda_keys", "api_key = secret\n"),
    ],
)
def test_the_vendors_own_file_is_found_and_others_may_not_read_it(home: Path, name: str, file: str, text: str) -> None:
    path = home / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o644)
    assert (found()[name].verdict, found()[name].todo) == (Verdict.WARN, f"chmod 600 '{path}'")
    path.chmod(0o600)
    assert (found()[name].verdict, found()[name].found) == (Verdict.PASS, f"API key in {path}")


def test_what_cannot_be_a_key_fails_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "two words")
    assert found()["runpod"].verdict is Verdict.FAIL
    assert "two words" not in str(found())


def pointed_at(cloud: Cloud, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key_variable, url_variable = VARIABLES[name]
    monkeypatch.setenv(key_variable, cloud.key)
    monkeypatch.setenv(url_variable, cloud.url)


def double_of(name: str, folder: Path) -> Cloud:
    if name == "vast":
        return VastCloud(folder, sshd=False)
    return RunpodDouble(folder) if name == "runpod" else LambdaDouble(folder)


@pytest.mark.parametrize("name", list(VARIABLES))
def test_a_cloud_is_asked_only_when_told_to_and_only_with_questions_that_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with double_of(name, tmp_path / "cloud") as cloud:
        pointed_at(cloud, name, monkeypatch)
        assert found()[name].verdict is Verdict.PASS
        assert cloud.requests == []
        assert found(online=True)[name].found.endswith("taken; machines of gptops there: 0")
        assert {asked.method for asked in cloud.requests} == {"GET"}


def test_it_counts_the_machines_that_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunpodDouble(tmp_path / "cloud") as cloud:
        pointed_at(cloud, "runpod", monkeypatch)
        runpod = open_provider("runpod", state_paths(), clock=FakeClock())
        [offer, *_] = runpod.offers(Wanted(gpus=1))
        for label in ("gptops:a:1", "somebody else's", "gptops:b:2"):
            runpod.create(offer, CreateRequest(label, "", 20, "ssh-ed25519 AAAA gptops"))
        assert found(online=True)["runpod"].found.endswith("machines of gptops there: 2")


@pytest.mark.parametrize("name", list(VARIABLES))
def test_a_key_that_is_not_taken_fails_with_where_to_get_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with double_of(name, tmp_path / "cloud") as cloud:
        pointed_at(cloud, name, monkeypatch)
        monkeypatch.setenv(VARIABLES[name][0], "wrong-key")
        assert main(["doctor", "--online", "--json"]) == ExitCode.LOCAL_FAULT
        text = capsys.readouterr().out
        [check] = [check for check in json.loads(text)["checks"] if check["name"] == name]
        assert check["verdict"] == "fail"
        assert "https://" in check["todo"]
        assert "wrong-key" not in text


@pytest.mark.parametrize("reply", [DROPPED, Reply(200, "<html>please log in</html>"), Reply(429, "slow down")])
def test_a_cloud_that_does_not_answer_is_a_warning_and_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: Reply
) -> None:
    with RunpodDouble(tmp_path / "cloud") as cloud:
        pointed_at(cloud, "runpod", monkeypatch)
        cloud.fail("GET", "/pods", reply, times=9)
        check = found(online=True)["runpod"]
        assert check.verdict is Verdict.WARN
        assert "whether it is taken is not known" in check.found
        assert len(cloud.requests) == 1
