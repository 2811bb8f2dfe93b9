"""A job as pydantic sees it: what is taken, what is refused, and that a secret is never repeated."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.errors import JobsError
from launcher.providers.by_name import AVAILABLE
from launcher.spec.jobs import ACCEPTED_PROVIDERS, HostSpec, JobSpec, require_supported
from launcher.spec.together import INSTEAD
from trainer.config import ConfigError, validated


def job(**keys: Any) -> JobSpec:
    return validated(JobSpec, {"stage": "pretrain", **keys}, source="jobs.yaml", at="jobs.x")


def refusal(**keys: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        job(**keys)
    return str(raised.value.what)


def test_the_providers_accepted_are_those_that_can_be_opened() -> None:
    assert ACCEPTED_PROVIDERS == AVAILABLE


def test_the_smallest_job_is_one_word() -> None:
    smallest = job()
    assert (smallest.provider, smallest.resources.gpus, smallest.processes_per_node) == ("local", 0, 1)
    assert smallest.sync.keep_remote == 2
    assert not smallest.refusals


def test_one_process_a_gpu_unless_said() -> None:
    assert job(resources={"gpus": 8}).processes_per_node == 8
    assert job(resources={"gpus": 8}, processes=2).processes_per_node == 2


def test_numbers_in_env_become_text_and_a_bool_is_refused() -> None:
    assert job(env={"OMP_NUM_THREADS": 1, "RATE": 0.5, "NAME": "a b"}).env == {
        "OMP_NUM_THREADS": "1",
        "RATE": "0.5",
        "NAME": "a b",
    }
    message = "jobs.yaml: jobs.x.env.FLAG: `true` is neither text nor a number; quote it to make it text"
    assert refusal(env={"FLAG": True}) == message


@pytest.mark.parametrize("value", ["a'; echo foo", "two\nlines", "$(touch pwned)", '"', "\\", "ümlaut", "", " "])
def test_any_text_is_a_value_in_env(value: str) -> None:
    assert job(env={"X": value}).env == {"X": value}


@pytest.mark.parametrize("name", ["A B", "1X", "a-b", "x=1", "$(id)", "", "X\n", "ü"])
def test_a_name_no_shell_would_take_is_refused(name: str) -> None:
    assert "is not a variable name" in refusal(env={name: "x"})
    assert "is not the name of a variable" in refusal(secrets=[name])


def test_names_that_belong_to_gptops_are_refused() -> None:
    assert "names that start with GPTOPS_ are taken" in refusal(env={"GPTOPS_RUN_ID": "x"})


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "DB_PASSWORD", "aws_secret", "TOKEN"])
def test_a_secret_in_env_is_refused_and_its_value_not_repeated(name: str) -> None:
    message = refusal(env={name: "s3cr3t-value"})
    assert f"write `secrets: [{name}]` and export {name}" in message
    assert "s3cr3t" not in message


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "MONKEY", "KEYBOARD", "NCCL_DEBUG"])
def test_a_name_that_only_sounds_like_a_secret_is_fine(name: str) -> None:
    assert job(env={name: "x"}).env == {name: "x"}


@pytest.mark.parametrize("secrets", [{"WANDB_API_KEY": "s3cr3t"}, ["WANDB_API_KEY=s3cr3t"], [{"A": "s3cr3t"}]])
def test_a_secret_with_its_value_is_refused_and_the_value_not_repeated(secrets: Any) -> None:
    message = refusal(secrets=secrets)
    assert "give names only; each value is taken from your own environment" in message
    assert "s3cr3t" not in message


def test_a_name_in_env_and_in_secrets_is_refused() -> None:
    assert "`A` stands in env and in secrets" in refusal(env={"A": "1"}, secrets=["A"])


def test_accelerate_would_start_one_process_on_a_cpu_so_more_are_refused() -> None:
    assert "use `launcher: torchrun`" in refusal(launcher="accelerate", processes=2)
    assert job(launcher="accelerate", processes=2, resources={"gpus": 2}).processes == 2


def test_a_budget_that_buys_nothing_is_refused() -> None:
    message = refusal(resources={"max_price_per_hour": 20}, budget={"max_usd": 1})
    assert "budget.max_usd 1 buys 3.0 minutes at resources.max_price_per_hour 20" in message


def test_a_host_goes_with_the_provider_ssh() -> None:
    assert "host `box` goes with `provider: ssh`, not with `local`" in refusal(host="box")


@pytest.mark.parametrize("seen", [3, 1.5, True, ["a"], None])
def test_train_is_a_mapping_or_a_path(seen: Any) -> None:
    assert "jobs.x.train:" in refusal(train=seen)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sync": {"keep_remote": 1}}, "jobs.x.sync.keep_remote: `1` is not allowed: should be greater than"),
        ({"resources": {"gpus": "8"}}, "jobs.x.resources.gpus: `'8'` is not a whole number: it is text"),
        ({"resources": {"gpu": 8}}, "jobs.x.resources.gpu: unknown key (did you mean `gpus`?)"),
        ({"resources": {"max_price_per_hour": float("inf")}}, "max_price_per_hour: `inf` is not allowed"),
        ({"stage": "pretrian"}, "jobs.x.stage: `'pretrian'` is not one of 'pretrain', 'sft', "),
        ({"stage": "pretrian"}, "(did you mean `pretrain`?)"),
        ({"provider": "vats"}, "(did you mean `vast`?)"),
        ({"sync": None}, "jobs.x.sync: is empty; leave the key out, or give it a mapping of keys to values"),
        ({"image": "-v/:/x"}, "jobs.x.image:"),
    ],
)  # fmt: skip
def test_what_is_wrong_names_the_place_the_value_and_what_is_allowed(keys: dict[str, Any], message: str) -> None:
    assert message in refusal(**keys)


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", "", "x;y", "a\nb"])
def test_a_host_that_ssh_would_take_for_an_option_is_refused(host: str) -> None:
    with pytest.raises(ConfigError):
        validated(HostSpec, {"host": host}, source="jobs.yaml", at="hosts.x")


def test_an_ipv6_address_in_brackets_is_told_to_stand_without_them() -> None:
    with pytest.raises(ConfigError, match=r"host `\[fd00::1\]` is .* without brackets here"):
        validated(HostSpec, {"host": "[fd00::1]"}, source="jobs.yaml", at="hosts.x")


@pytest.mark.parametrize("host", ["gpu.example.org", "10.0.0.1", "::1", "fe80::1%eth0", "gpu_box-2"])
def test_names_and_addresses_are_hosts(host: str) -> None:
    assert validated(HostSpec, {"host": host}, source="jobs.yaml", at="hosts.x").host == host


def test_what_a_later_version_runs_is_refused_by_name_and_with_what_there_is() -> None:
    later = job(stage="sft", provider="lambda_cloud", resources={"nodes": 2})
    with pytest.raises(JobsError) as raised:
        require_supported(later, "chat")
    what = raised.value.what
    assert what.startswith("jobs.yaml: jobs.chat.resources.nodes: 2 at `lambda_cloud`: its public API launches")
    assert what.endswith(f"instead: {INSTEAD}")
    require_supported(job(), "demo")
