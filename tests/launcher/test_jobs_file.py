"""jobs.yaml from disk: where each complaint points, and that the example and its documentation are true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import JobsError, NotFound
from launcher.spec.jobs_file import Jobs, load_jobs, resolve_train
from launcher.spec.schema import jobs_schema, reference
from trainer.config import load_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str) -> Jobs:
    Path("jobs.yaml").write_text(text)
    return load_jobs(Path("jobs.yaml"))


def problems(text: str) -> list[str]:
    with pytest.raises(JobsError) as raised:
        load(text)
    assert raised.value.hint
    return [line.strip() for line in raised.value.what.splitlines()]


def train_problem(text: str, *overrides: str, job: str = "a") -> JobsError:
    jobs = load(text)
    with pytest.raises(JobsError) as raised:
        resolve_train(jobs.job(job), job, jobs, overrides)
    return raised.value


def test_defaults_lie_under_each_job_and_lists_are_replaced() -> None:
    jobs = load(
        """
        defaults: {stage: pretrain, env: {A: 1, B: 2}, secrets: [X, Y], resources: {gpus: 8, disk_gib: 50}}
        jobs:
          a: {env: {B: 3}, secrets: [Z], resources: {gpus: 2}}
          b:
        """
    ).jobs
    assert jobs["a"].env == {"A": "1", "B": "3"}
    assert jobs["a"].secrets == ("Z",)
    assert (jobs["a"].resources.gpus, jobs["a"].resources.disk_gib) == (2, 50)
    assert jobs["b"].env == {"A": "1", "B": "2"}


def test_a_mistake_in_defaults_is_told_once_and_where_it_stands() -> None:
    text = "defaults: {stage: pretrain, sync: {keep_remot: 3}}\njobs: {a: {}, b: {}, c: {sync: {every_seconds: 1}}}"
    assert problems(text) == ["jobs.yaml: defaults.sync.keep_remot: unknown key (did you mean `keep_remote`?)"]


def test_a_mistake_of_a_job_is_told_at_the_job() -> None:
    text = "defaults: {sync: {keep_remote: 2}}\njobs: {a: {stage: pretrain, sync: {keep_remote: 0}}}"
    assert problems(text)[0].startswith("jobs.yaml: jobs.a.sync.keep_remote: `0` is not allowed")


def test_every_problem_is_told_at_once() -> None:
    found = problems("jobs: {a: {stage: x}, b: {stage: pretrain, colour: red}, c: {}}\nhosts: {h: {port: 0}}")
    assert [line.split(": ")[1] for line in found] == [
        "hosts.h.host",
        "hosts.h.port",
        "jobs.a.stage",
        "jobs.b.colour",
        "jobs.c.stage",
    ]


def test_a_job_without_a_stage_says_which_there_are() -> None:
    assert problems("jobs: {a: {}}") == [
        "jobs.yaml: jobs.a.stage: is required and missing; one of: pretrain, sft, dpo, orpo, ppo, grpo, rgpo"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "jobs.yaml: must have the keys defaults, jobs, hosts, groups, but is empty"),
        ("- a", "jobs.yaml: must have the keys"),
        ("job: {}", "jobs.yaml: job: unknown key (did you mean `jobs`?)"),
        ("jobs:", "jobs.yaml: jobs: is required: at least one job by name"),
        ("jobs: [a]", "jobs.yaml: jobs: `['a']` is not a mapping of keys to values"),
        ("jobs: {a: 3}", "jobs.yaml: jobs.a: `3` is not a mapping of keys to values"),
        ("jobs: {'a b': {}}", "jobs.yaml: jobs: the name `a b` may hold letters, digits, - and _"),
        ("jobs: {1: {}}", "jobs.yaml: jobs: the name `1` may hold letters"),
        ("jobs: {'../x': {}}", "jobs.yaml: jobs: the name `../x` may hold letters"),
        ("jobs: {a: {stage: pretrain}}\njobs: {}", "jobs.yaml: line 2, column 1: `jobs` stands twice"),
        ("jobs: {a: {stage: pretrain}", "jobs.yaml: line 1, column"),
        ("jobs: {a: {stage: pretrain, provider: ssh, host: bxo}}\nhosts: {box: {host: x}}", "(did you mean `box`?)"),
        ("jobs: {a: {stage: pretrain, provider: ssh, host: b}}", "does not stand under hosts; known: none"),
    ],
)
def test_a_broken_frame_is_told_with_what_belongs_there(text: str, message: str) -> None:
    assert message in "\n".join(problems(text))


def test_a_missing_or_unreadable_file_is_one_clear_error() -> None:
    with pytest.raises(JobsError, match=r"no such file") as raised:
        load_jobs(Path("nothing.yaml"))
    assert raised.value.hint == "gptops init"
    Path("latin.yaml").write_bytes(b"jobs: \xff")
    with pytest.raises(JobsError, match="is not UTF-8 text"):
        load_jobs(Path("latin.yaml"))
    with pytest.raises(JobsError, match="cannot be read"):
        load_jobs(Path.cwd())


def test_an_unknown_job_names_the_nearest() -> None:
    jobs = load("jobs: {demo: {stage: pretrain}}")
    with pytest.raises(NotFound, match=r"has no job `dmeo` \(did you mean `demo`\?\)"):
        jobs.job("dmeo")
    with pytest.raises(NotFound, match="it has: demo"):
        jobs.job("unlike")


def test_a_training_problem_has_its_path_in_the_file() -> None:
    error = train_problem("jobs: {a: {stage: pretrain, train: {optim: {lr: '3e-4'}}}}")
    assert error.what.startswith("jobs.yaml: jobs.a.train.optim.lr: `'3e-4'` is not a number: it is text, write it")


def test_a_training_problem_from_defaults_points_there() -> None:
    error = train_problem("defaults: {train: {optim: {lrr: 1}}}\njobs: {a: {stage: pretrain}}")
    assert error.what == "jobs.yaml: defaults.train.optim.lrr: unknown key (did you mean `lr`?)"


def test_an_unquoted_3e_4_is_a_number() -> None:
    jobs = load("jobs: {a: {stage: pretrain, train: {optim: {lr: 3e-4}}}}")
    assert resolve_train(jobs.job("a"), "a", jobs).optim.lr == 3e-4


def test_overrides_win_and_are_named_in_the_error() -> None:
    text = "jobs: {a: {stage: pretrain, train: {train: {max_steps: 500}}}}"
    jobs = load(text)
    assert resolve_train(jobs.job("a"), "a", jobs, ["train.max_steps=200"]).train.max_steps == 200
    error = train_problem(text, "train.max_stps=5")
    assert error.what.startswith("jobs.yaml with train.max_stps=5: jobs.a.train.train.max_stps: unknown key (did you")


def test_train_in_a_file_of_its_own_is_named_in_its_errors(tmp_path: Path) -> None:
    name = "conf's $(x) dir/train.yaml"
    (tmp_path / "conf's $(x) dir").mkdir()
    (tmp_path / name).write_text("optim: {lr: fast}")
    text = f'jobs: {{a: {{stage: pretrain, train: "{name}"}}}}'
    assert train_problem(text).what == f"{name}: optim.lr: `'fast'` is not a number"
    jobs = load(text)
    (tmp_path / name).write_text("optim: {lr: 1e-3}")
    assert resolve_train(jobs.job("a"), "a", jobs).optim.lr == 1e-3


def test_a_train_file_that_is_not_there_is_told_at_its_key() -> None:
    error = train_problem("jobs: {a: {stage: pretrain, train: no.yaml}}")
    assert error.what == "jobs.yaml: jobs.a.train: there is no file `no.yaml` beside it"


def test_train_as_a_file_and_as_keys_is_refused() -> None:
    found = problems("defaults: {train: {seed: 1}}\njobs: {a: {stage: pretrain, train: x.yaml}}")
    assert found == ["jobs.yaml: jobs.a.train: is a file while defaults.train is keys; a job takes one of them"]
    found = problems("defaults: {train: x.yaml}\njobs: {a: {stage: pretrain, train: {seed: 1}}}")
    assert found == ["jobs.yaml: jobs.a.train: is keys while defaults.train is a file; a job takes one of them"]


def test_a_batch_that_does_not_divide_over_the_gpus_is_found_here() -> None:
    error = train_problem("jobs: {a: {stage: pretrain, resources: {gpus: 8}, train: {}}}")
    assert error.what.startswith("jobs.yaml: jobs.a.train.train.global_batch_size: `32` is not a multiple of ")
    assert "train.global_batch_size=64" in error.hint


# The example, the schema and the reference page


def test_the_example_at_the_root_is_valid_and_its_jobs_are_those_promised() -> None:
    jobs = load_jobs(ROOT / "jobs.yaml")
    assert list(jobs.jobs) == ["demo", "pretrain", "sft", "dpo"]
    assert (jobs.job("demo").provider, jobs.job("demo").resources.gpus) == ("local", 0)
    assert not jobs.job("demo").refusals
    assert resolve_train(jobs.job("demo"), "demo", jobs).data.path == "sample"
    assert all(jobs.job(name).resources.gpus == 8 and jobs.job(name).provider == "vast" for name in list(jobs.jobs)[1:])
    assert resolve_train(jobs.job("pretrain"), "pretrain", jobs).model.n_layers == 12


def test_the_example_shows_every_key_of_a_job_and_of_a_host() -> None:
    definitions = jobs_schema()["$defs"]
    written = keys_below(load_yaml(ROOT / "jobs.yaml"))
    for model in ("JobSpec", "Resources", "SyncPolicy", "Budget", "SetupSpec", "HostSpec"):
        missing = set(definitions[model]["properties"]) - written
        assert not missing, f"{model}: {missing} in jobs.yaml?"


def keys_below(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for each in value.values() for key in keys_below(each)}
    return set()


def test_the_schema_is_json_and_describes_training_too() -> None:
    schema = json.loads(json.dumps(jobs_schema()))
    assert schema["properties"].keys() == {"defaults", "jobs", "hosts", "groups"}
    job = schema["$defs"]["JobSpec"]
    assert "required" not in job
    assert job["properties"]["train"]["anyOf"][0] == {"$ref": "#/$defs/RunConfig"}
    assert schema["$defs"]["OptimConfig"]["properties"]["lr"]["description"] == "Peak learning rate."
    assert schema["$defs"]["Resources"]["additionalProperties"] is False


def test_every_reference_in_the_schema_leads_somewhere() -> None:
    schema = jobs_schema()

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own | {each for inner in value.values() for each in references(inner)}
        if isinstance(value, list):
            return {each for inner in value for each in references(inner)}
        return set()

    assert {name.rpartition("/")[2] for name in references(schema)} <= set(schema["$defs"])


def test_every_key_of_jobs_yaml_has_a_description() -> None:
    definitions = jobs_schema()["$defs"]
    for model in ("JobSpec", "Resources", "SyncPolicy", "Budget", "SetupSpec", "HostSpec"):
        for key, field in definitions[model]["properties"].items():
            assert field.get("description") or "$ref" in field, f"{model}.{key} has no docstring"


def test_the_reference_page_is_current() -> None:
    page = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
    assert page == reference(), "run: gptops schema --markdown > docs/jobs.md"
