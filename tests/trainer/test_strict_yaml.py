"""YAML read the way people mean it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import ConfigError, apply_overrides, dump_yaml, load_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("6E5", 6e5),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("12", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("0777", "0777"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("'3e-4'", "3e-4"),
    ],
)
def test_a_scalar_is_what_it_looks_like(text: str, value: Any) -> None:
    read = parse_yaml(text, "t")
    assert read == value
    assert type(read) is type(value)


def test_infinity_and_not_a_number_are_numbers() -> None:
    assert parse_yaml("-.inf", "t") == -math.inf
    assert math.isnan(parse_yaml(".nan", "t"))


def test_a_key_that_stands_twice_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"jobs\.yaml: line 3, column 1: `a` stands twice"):
        parse_yaml("a: 1\nb: 2\na: 3\n", "jobs.yaml")


@pytest.mark.parametrize("text", ["a: [1, 2", "a:\n\t- b", "{a: b", "a: !!python/object:os.system x", "? [x]\n: y"])
def test_what_is_not_yaml_is_refused_without_a_traceback(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "jobs.yaml")
    assert str(caught.value).startswith("error: jobs.yaml: line ")


def test_a_file_that_is_missing_binary_or_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\xfe")
    for name, why in (
        ("missing.yaml", "no such file"),
        ("binary.yaml", "byte 3: is not UTF-8"),
        ("", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=why):
            load_yaml(tmp_path / name)


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.recursive(_scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12))
def test_what_is_written_is_read_back_equal(value: Any) -> None:
    assert parse_yaml(dump_yaml(value), "t") == value


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\u2029", "\ufeffx", "日本語\x85", "é"])
def test_unicodes_own_line_breaks_survive_too(text: str) -> None:
    assert parse_yaml(dump_yaml({text: text}), "t") == {text: text}


def test_an_override_reaches_into_sections_and_leaves_the_original_alone() -> None:
    original = {"optim": {"lr": 1.0}}
    assert apply_overrides(original, ["optim.lr=3e-4", "train.max_steps=5", "sample.prompt='10'"]) == {
        "optim": {"lr": 3e-4},
        "train": {"max_steps": 5},
        "sample": {"prompt": "10"},
    }
    assert original == {"optim": {"lr": 1.0}}


def test_an_override_keeps_everything_after_the_first_equals_sign() -> None:
    assert apply_overrides({}, ["sample.prompt=a=b"]) == {"sample": {"prompt": "a=b"}}
    assert apply_overrides({}, ["sample.prompt="]) == {"sample": {"prompt": ""}}


@pytest.mark.parametrize("override", ["optim.lr", "=3", "a..b=1", ".a=1", "optim.lr.x=1"])
def test_an_override_of_another_form_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"is not of the form key=value|has no keys below it"):
        apply_overrides({"optim": {"lr": 1.0}}, [override])
