"""Secrets and the environment file: from this shell to that one, unchanged and unseen."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.errors import JobsError
from launcher.running.run_env import refuse_reserved, run_env
from launcher.spec.secrets import MASK, masked, secret_values


def test_values_come_from_the_environment_in_the_order_of_the_names() -> None:
    assert secret_values(("B", "A"), {"A": "1", "B": "2", "C": "3"}, job_name="demo") == {"B": "2", "A": "1"}


def test_all_that_are_missing_are_named_at_once() -> None:
    with pytest.raises(JobsError) as caught:
        secret_values(("A", "B", "C"), {"A": "1", "B": ""}, job_name="demo")
    assert caught.value.what == "the job `demo` needs `B`, `C`, not set in your environment"
    assert caught.value.hint == "export B=... C=..."


def test_a_mask_tells_nothing_of_the_value() -> None:
    assert masked({"A": "x", "B": "a long one"}) == {"A": MASK, "B": MASK}


@pytest.mark.parametrize("name", ["UID", "RANK", "MASTER_ADDR"])
def test_a_variable_that_would_not_arrive_is_refused(name: str) -> None:
    with pytest.raises(JobsError, match=f"jobs.demo: `{name}` cannot be set"):
        refuse_reserved(["FINE", name], job_name="demo")


without_nul = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(without_nul, min_size=1, max_size=20))
def test_any_value_survives_the_shell(tmp_path: Path, values: list[str]) -> None:
    named = {f"V{number}": value for number, value in enumerate(values)}
    (tmp_path / "run.env").write_bytes(run_env(named))
    script = "set -a; . ./run.env; exec env -0"
    seen = subprocess.run(["sh", "-c", script], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True)
    got = dict(row.split(b"=", 1) for row in seen.stdout.split(b"\0") if b"=" in row)
    assert {name: got[name.encode()].decode() for name in named} == named
