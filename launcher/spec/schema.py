"""jobs.yaml described for others: a JSON Schema for editors, and the reference page for people.

Both are made from the models, whose docstrings are the descriptions; nothing
about the format is written twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from launcher.spec.jobs import HostSpec, JobSpec
from trainer.config import RunConfig

Schema = dict[str, Any]


def jobs_schema() -> Schema:
    """The JSON Schema of the whole file, training configurations included."""
    models = [(JobSpec, "validation"), (HostSpec, "validation"), (RunConfig, "validation")]
    _, shared = models_json_schema(models, ref_template="#/$defs/{model}")  # type: ignore[arg-type]
    definitions: Schema = shared["$defs"]
    job = definitions["JobSpec"]
    job.pop("required")  # `stage` may stand in defaults; an editor sees one mapping at a time
    job["properties"]["train"] = {
        "description": job["properties"]["train"]["description"],
        "anyOf": [{"$ref": "#/$defs/RunConfig"}, {"type": "string"}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gptops jobs.yaml",
        "type": "object",
        "additionalProperties": False,
        "required": ["jobs"],
        "properties": {
            "defaults": {"$ref": "#/$defs/JobSpec", "description": "Lies under every job, key by key."},
            "jobs": _named("JobSpec", "Jobs by name."),
            "hosts": _named("HostSpec", "Machines you have already, by name."),
            "groups": _GROUPS,
        },
        "$defs": definitions,
    }


def reference() -> str:
    """docs/jobs.md: every key with its type, default and meaning."""
    schema = jobs_schema()
    parts = [_INTRODUCTION]
    for title, model in (("A job", "JobSpec"), ("A machine under `hosts`", "HostSpec")):
        parts += [f"## {title}\n", _table(_rows(schema, model))]
    parts += ["## `train`: the training configuration\n", _TRAIN, _table(_rows(schema, "RunConfig"))]
    return "\n".join(parts)


_GROUPS: Schema = {
    "description": "Hosts on one network that may train together, by name: for `resources.nodes`.",
    "type": "object",
    "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$"},
    "additionalProperties": {"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": True},
}


def _named(model: str, description: str) -> Schema:
    return {
        "description": description,
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$"},
        "additionalProperties": {"$ref": f"#/$defs/{model}"},
    }


def _rows(schema: Schema, model: str, at: str = "") -> Iterator[tuple[str, str, str, str]]:
    for key, field in schema["$defs"][model]["properties"].items():
        inner = field.get("$ref", "").rpartition("/")[2]
        if inner:
            yield from _rows(schema, inner, f"{at}{key}.")
        else:
            default = field.get("default", [] if field.get("type") == "array" else "")
            yield f"{at}{key}", _type(field), _shown(default), " ".join(field.get("description", "").split())


def _type(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return " \\| ".join(f"`{word}`" for word in field["enum"])
    if "anyOf" in field:
        kinds = [_type(each) for each in field["anyOf"] if each.get("type") != "null"]
        return " or ".join(kind for kind in kinds if kind)
    if "$ref" in field:
        return "mapping"
    kind = field.get("type", "")
    return " or ".join(_KINDS[each] for each in ([kind] if isinstance(kind, str) else kind)) + _range(field)


def _range(field: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return "".join(f", {sign} {field[name]:g}" for name, sign in signs.items() if name in field)


def _shown(default: Any) -> str:
    if default in ("", None, [], {}):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else repr(default).strip(chr(39))}`"


def _table(rows: Iterator[tuple[str, str, str, str]]) -> str:
    lines = ["| key | value | default | what it is |", "|---|---|---|---|"]
    lines += [f"| `{key}` | {kind} | {default} | {meaning} |" for key, kind, default, meaning in rows]
    return "\n".join(lines) + "\n"


_KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true` \\| `false`",
    "array": "list",
    "object": "mapping",
}

_INTRODUCTION = """\
# jobs.yaml

<!-- Made by `gptops schema --markdown`; tests/launcher/test_jobs_file.py says when it is out of date. -->

The annotated [jobs.yaml](../jobs.yaml) at the root shows how it reads; this page has every key. `gptops check` checks a
file and shows what it means; `gptops schema` is this page for editors.

A file has `jobs` (at least one, by name), and may have `defaults`, which lie under every job key by key (a job's own
value wins, a list replaces a list), `hosts`, the machines you have already, and `groups`, lists of hosts on one network
that may train together ([several nodes](nodes.md)).

Numbers are read as people mean them: `3e-4` is a number, `no` is text, `0777` and `1:30` are text and refused where a
number is wanted. A key that stands twice is refused. Nothing unknown is ignored.
"""

_TRAIN = """\
Inline under `train`, or in a file of its own that `train` names. `key=value` after `gptops train JOB` and
`gptops check` wins over both: `gptops train demo optim.lr=1e-3`.
"""
