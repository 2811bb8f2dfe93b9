"""YAML read the way people mean it.

PyYAML speaks YAML 1.1, where `3e-4` is text, `no` is false, `0777` is 511 and
`1:30` is 90. This reader resolves scalars by the YAML 1.2 core schema, keeps
what is ambiguous as text, and refuses a key that stands twice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from trainer.config.problems import ConfigError, Problem


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with the YAML 1.2 core schema and without duplicate keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own protocol

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        seen: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool)):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"`{key}` stands twice", key_node.start_mark)
            seen[key] = self.construct_object(value_node, deep=deep)
        return seen


def _construct_map(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


def _construct_int(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node), 0)


# The core schema of YAML 1.2.2, section 10.3.2. A leading zero (`0777`) is left
# as text: it is octal to one reader and decimal to the next.
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     "-+0123456789."),
    ("merge", r"<<", "<"),
):  # fmt: skip
    _regexp = re.compile(rf"^(?:{_pattern})$")
    if _tag == "float":
        _regexp = re.compile(rf"^(?!0[0-9])(?![-+]0[0-9])(?:{_pattern})$")
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _regexp, [*_first.replace("\0", ""), ""])
_StrictLoader.add_constructor("tag:yaml.org,2002:map", _construct_map)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str, source: str) -> Any:
    """The value `text` holds. Raises ConfigError with line and column where it is not YAML."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        message = error.problem or error.context or "cannot be read as YAML"
        raise ConfigError([Problem(source, place, message)], hint="check the indentation and quotes there") from error
    except yaml.YAMLError as error:
        raise ConfigError([Problem(source, "", f"cannot be read as YAML: {error}")]) from error


def load_yaml(path: Path) -> Any:
    """The value the file holds. Raises ConfigError where it is missing, unreadable or not text."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError([Problem(str(path), "", "no such file")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), f"byte {error.start}", "is not UTF-8 text")]) from error
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from error
    return parse_yaml(text, str(path))


_FOLDED_ON_READING = "\x85\u2028\u2029\ufeff"
"""Unicode's own line breaks and its byte order mark: PyYAML writes them as they are, and reads them as white space."""


def dump_yaml(value: Any) -> str:
    """`value` as YAML that `parse_yaml` reads back equal, keys in the order given."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
    if any(mark in text for mark in _FOLDED_ON_READING):
        text = yaml.safe_dump(value, sort_keys=False, width=120)  # everything beyond ASCII escaped
    assert parse_yaml(text, "dump") == value, "a value that does not survive YAML"
    return text
