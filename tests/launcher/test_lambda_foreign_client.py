"""The double of Lambda, held honest by a client that nobody here wrote: the command `lai`.

It lives in a virtual environment of its own: $GPTOPS_LAI_VENV, or .venv-lai in the repository
(python -m venv .venv-lai && .venv-lai/bin/pip install lambda-ai-cloud-api-client==2.4.1).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.doubles.lambda_cloud import LambdaDouble

ROOT = Path(__file__).parents[2]
LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILXGDN/SclOozk1xsDztpmhGiKkkrfQB9SKoO8dSIQQZ gptops"


def client() -> Path:
    venv = Path(os.environ.get("GPTOPS_LAI_VENV") or ROOT / ".venv-lai")
    program = venv / "bin" / "lai"
    if not program.exists():
        pytest.skip(f"the client is not installed in {venv}")
    return program


def test_a_foreign_client_rents_a_machine_here_from_the_list_of_types_to_its_end(tmp_path: Path) -> None:
    program = client()
    with LambdaDouble(tmp_path / "cloud") as cloud:
        cloud.ssh_keys = [{"id": "1" * 32, "name": "mine", "public_key": LINE}]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "LAMBDA_CLOUD_BASE_URL": cloud.url.removesuffix("/api/v1"),
            "LAMBDA_CLOUD_TOKEN": cloud.key,
            "COLUMNS": "200",
        }

        def lai(*words: str) -> str:
            done = subprocess.run(
                [str(program), *words], env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=300
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert "gpu_1x_a10" in lai("types")
        assert "mine" in lai("keys")
        start = ("--instance-type", "gpu_1x_a10", "--region", "us-east-1", "--ssh-key", "mine", "--name", "gptops:p:1")
        assert "booting" in lai("start", *start)
        [instance_id] = cloud.alive
        assert instance_id in lai("ls")
        assert [json.loads(lai("get", instance_id))["status"] for _ in range(2)] == ["booting", "active"]
        lai("stop", instance_id)
        assert (cloud.alive, cloud.meter.per_hour) == ([], 0.0)
