"""Reward functions: the shipped ones, a user's own in a process that may fail as it likes, and the command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main
from trainer.config import ConfigError, validated
from trainer.config.reinforcement import RewardConfig
from trainer.errors import DataError, ExitCode
from trainer.rewards import shipped
from trainer.rewards.calling import Caller
from trainer.rewards.scoring import Completed, Scorer

PATIENT = 120.0

FUNCTIONS = """\
import os, sys, time
from neighbour import TWO

def short(completion):
    return TWO - len(completion)

def only_questions(prompt, completion, **columns):
    return float(columns["wanted"]) if prompt.endswith("?") else None

def raises(completion):
    raise ValueError("no idea")

def hangs(completion):
    while True:
        time.sleep(3600)

def leaves(completion):
    sys.exit(3)

def crashes(completion):
    os._exit(7)

def no_number(completion):
    return float("nan")

def talks(completion):
    print("a word", flush=True)
    return 1

def pid():
    return os.getpid()

def listed(completion):
    return [1]
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.py"
    path.write_text(FUNCTIONS)
    (tmp_path / "neighbour.py").write_text("TWO = 2\n")
    return path


@pytest.fixture
def caller() -> Iterator[Caller]:
    opened = Caller()
    yield opened
    opened.close()


def config_of(*functions: dict[str, Any], timeout_seconds: float = PATIENT) -> RewardConfig:
    section = {"functions": list(functions), "timeout_seconds": timeout_seconds}
    return validated(RewardConfig, section, source="test")


def total(config: RewardConfig, completed: Completed) -> tuple[float | None, list[str]]:
    scorer = Scorer(config)
    try:
        return scorer.score(completed).total, list(scorer.failures)
    finally:
        scorer.close()


def test_values_are_weighted_and_a_function_that_does_not_apply_is_left_out(functions: Path) -> None:
    config = config_of(
        {"use": f"{functions}:short", "weight": 2.0}, {"use": f"{functions}:only_questions", "weight": -1.0}
    )
    assert total(config, Completed("why?", "abcd", {"wanted": 5})) == (2 * -2 - 5, [])
    assert total(config, Completed("so.", "abcd")) == (-4, [])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("raises", "ValueError: no idea"),
        ("leaves", "SystemExit: 3"),
        ("crashes", "ended"),
        ("no_number", "no finite number"),
        ("listed", "no finite number"),
    ],
)
def test_a_function_that_fails_says_nothing_and_is_counted(functions: Path, name: str, problem: str) -> None:
    config = config_of({"use": f"{functions}:{name}"}, {"use": f"{functions}:short"})
    reward, failures = total(config, Completed("", "abc"))
    assert reward == -1
    (said,) = failures
    assert said.startswith(f"{name}: ")
    assert problem in said


def test_a_function_that_hangs_is_ended_and_the_next_call_is_answered(functions: Path, caller: Caller) -> None:
    hanging = f"{functions}:hangs"
    caller.require(hanging)
    before = caller.call(f"{functions}:pid", {}, PATIENT).value
    assert "no answer within 0.2 s" in caller.call(hanging, {"completion": ""}, 0.2).problem
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    assert caller.call(f"{functions}:short", {"completion": "abc"}, PATIENT).value == -1


def test_what_a_function_prints_is_not_taken_for_its_answer(functions: Path, caller: Caller) -> None:
    assert caller.call(f"{functions}:talks", {"completion": ""}, PATIENT).value == 1


@pytest.mark.parametrize(
    ("use", "why"),
    [("nowhere.py:f", "no file"), ("{}:absent", "no function `absent`"), ("{}.txt:f", "no Python file")],
)
def test_a_function_that_is_not_there_is_refused_before_anything_begins(functions: Path, use: str, why: str) -> None:
    functions.with_name("rewards.py.txt").write_text("")
    with pytest.raises(DataError) as caught:
        Scorer(config_of({"use": use.format(functions)}))
    assert why in caught.value.why


def test_a_name_that_is_no_shipped_one_is_refused_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match="exact_match, length, regex, tool_call"):
        config_of({"use": "exakt"})


def test_the_shipped_rewards_work_by_their_names() -> None:
    config = config_of(
        {"use": "exact_match"},
        {"use": "length", "options": {"target": 4}},
        {"use": "regex", "options": {"pattern": "^a b"}},
    )
    assert total(config, Completed("", "a  b", {"answer": "a b"})) == (1 + 0.5 + 0, [])
    assert shipped.exact_match("so it is 4", turns=["let me see", " 4\n"], reference="4") == 1
    assert shipped.exact_match("4") is None


WEATHER = {"name": "weather", "arguments": {"city": "Oslo", "days": 2}}
SCHEMA = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def written(*calls: Any) -> str:
    return "".join(f"<|function_call|>{json.dumps(call)}<|/function_call|>" for call in calls)


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        (written(WEATHER), 1.0),
        ("let me see " + written(WEATHER), 1.0),
        (written({"name": "weather", "arguments": {"city": "Rome", "days": 2}}), 0.2 + 0.4 + 0.2 + 0.1),
        (written({"name": "weather", "arguments": {"city": 3}}), 0.2 + 0.4),
        (written({"name": "weather", "arguments": {"city": "Oslo", "unit": "C"}}), 0.2 + 0.4 + 0.2 + 0.1),
        (written({"name": "time", "arguments": {}}), 0.2),
        (written(WEATHER, WEATHER), 1.0 - 0.5),
        ("it is sunny", -0.5),
        (written(WEATHER) + "<|function_call|>", 0.8),
        ("<|function_call|>{weather}<|/function_call|>", -0.5),
        (written(WEATHER, WEATHER, WEATHER, WEATHER, WEATHER), -1.0),
    ],
)
def test_a_tool_call_is_worth_its_parts(completion: str, reward: float) -> None:
    assert shipped.tool_call(completion, calls=[WEATHER], tools=[SCHEMA]) == pytest.approx(reward)


def test_a_tool_call_without_a_schema_has_the_types_of_the_right_call_and_no_call_may_be_right() -> None:
    assert shipped.tool_call(written(WEATHER), calls=json.dumps([WEATHER])) == pytest.approx(1.0)
    other = {"name": "weather", "arguments": {"city": "Rome", "days": "2"}}
    assert shipped.tool_call(written(other), calls=[WEATHER]) == pytest.approx(0.6)
    assert shipped.tool_call("hello", calls=[]) == 1.0
    assert shipped.tool_call(written(WEATHER), calls=[]) == -0.5
    assert shipped.tool_call("hello") is None


def test_a_file_of_completions_is_scored(functions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "completions.jsonl"
    file.write_text('{"prompt": "2+2", "completion": "4", "answer": 4}\n{"completion": "5", "answer": "4"}\n')
    words = ["reward", "test", str(file), "--reward", "exact_match", "--reward", f"{functions}:short", "--json"]
    assert main(words) == ExitCode.OK
    said = capsys.readouterr()
    assert [json.loads(line) for line in said.out.splitlines()] == [
        {"row": 1, "reward": 2.0, "values": {"exact_match": 1.0, "short": 1.0}},
        {"row": 2, "reward": 1.0, "values": {"exact_match": 0.0, "short": 1.0}},
    ]
    assert "2 completions, 2 with a reward, mean 1.5000 (exact_match 0.5000, short 1.0000)" in said.err


def test_the_command_tells_of_failures_by_its_exit_code(
    functions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "completions.jsonl"
    file.write_text('{"completion": "4"}\n')
    assert main(["reward", "test", str(file), f"reward.functions=[{{use: '{functions}:raises'}}]"]) == ExitCode.DATA
    assert "failed 1 times: raises: ValueError: no idea" in capsys.readouterr().err
    assert main(["reward", "test", str(file)]) == ExitCode.DATA
    assert "no reward function is named" in capsys.readouterr().err
