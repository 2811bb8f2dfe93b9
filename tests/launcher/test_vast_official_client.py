"""The double of Vast, held honest by a client that nobody here wrote: the official `vastai` command.

It lives in a virtual environment of its own, because its pins conflict with ours: $GPTOPS_VASTAI_VENV, or
.venv-vastai in the repository (python -m venv .venv-vastai && .venv-vastai/bin/pip install vastai==1.9.1).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.vast_cloud import VastCloud

ROOT = Path(__file__).parents[2]
KEY_LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGptopsTestKeyGptopsTestKeyGptopsTestKeyAA gptops"


def client() -> Path:
    venv = Path(os.environ.get("GPTOPS_VASTAI_VENV") or ROOT / ".venv-vastai")
    program = venv / "bin" / "vastai"
    if not program.exists():
        pytest.skip(f"the official client is not installed in {venv}")
    return program


@dataclass
class Customer:
    """Somebody with the official client."""

    vast: VastCloud
    program: Path
    home: Path

    def vastai(self, *words: str) -> str:
        """What it prints. It ends with 0 whatever happens, so only what it says counts."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "VAST_URL": self.vast.url,
            "VAST_API_KEY": self.vast.key,
            "NO_COLOR": "1",
        }
        done = subprocess.run(
            [str(self.program), *words], env=environment, capture_output=True, text=True, cwd=self.home
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.vastai(*words, "--raw"))

    def library(self, call: str) -> Any:
        """What a method of its Python library returns: it has what the command has switched off."""
        program = (
            "import json, sys; from vastai import VastAI\n"
            "vast = VastAI(api_key=sys.argv[1], server_url=sys.argv[2])\n"
            "print('answer ' + json.dumps(eval(sys.argv[3])))"
        )
        argv = [str(self.program.parent / "python"), "-c", program, self.vast.key, self.vast.url, call]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, cwd=self.home)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.rpartition("answer ")[2])


@pytest.fixture
def customer(tmp_path: Path) -> Iterator[Customer]:
    program = client()
    with VastCloud(tmp_path / "vast", sshd=False) as vast:
        yield Customer(vast, program, tmp_path)


def test_the_official_client_rents_a_machine_here_from_search_to_end(customer: Customer) -> None:
    vast = customer.vast
    offers = customer.json("search", "offers", "num_gpus=1 gpu_name=RTX_4090 cuda_vers>=13.0", "--storage", "20")
    assert {offer["gpu_name"] for offer in offers} == {"RTX 4090"}
    assert all(offer["cuda_max_good"] >= 13 and offer["verification"] == "verified" for offer in offers)
    ask = str(offers[-1]["id"])

    created = customer.json("create", "instance", ask, "--image", "an/image:1", "--disk", "20", "--ssh", "--direct",
                            "--label", "gptops:tests:1", "--cancel-unavail")  # fmt: skip
    assert created["success"] is True
    number = str(created["new_contract"])
    assert vast.alive() == [number]
    sent = next(asked for asked in vast.requests if asked.path == f"/api/v0/asks/{ask}/").body
    assert sent["runtype"] == "ssh_direc ssh_proxy"  # the word that ours sends, too

    vast.time.advance(60)
    [listed] = customer.json("show", "instances")
    shown = customer.json("show", "instance", number)
    assert listed["id"] == shown["id"] == int(number)
    assert shown["actual_status"] == "running"
    assert shown["label"] == "gptops:tests:1"

    assert "SSH key added" in customer.vastai("attach", "ssh", number, KEY_LINE)
    assert vast.box(number).keys == [KEY_LINE]
    port = shown["ports"]["22/tcp"][0]["HostPort"]
    assert customer.vastai("ssh-url", number).strip() == f"ssh://root@127.0.0.1:{port}"

    customer.vastai("label", "instance", number, "renamed")
    assert vast.box(number).label == "renamed"
    customer.vastai("destroy", "instance", number, "-y")
    assert (vast.alive(), vast.meter.per_hour) == ([], 0)
    assert vast.dollars() > 0


def test_the_official_client_bids_and_pages_through_a_long_list_here(customer: Customer) -> None:
    vast = customer.vast
    [offer, *_] = customer.json("search", "offers", "num_gpus=8", "--type", "bid", "-o", "dph_total")
    assert offer["is_bid"] is True
    bid = str(offer["min_bid"])
    created = customer.json("create", "instance", str(offer["id"]), "--image", "an/image:1", "--disk", "8", "--ssh",
                            "--bid_price", bid)  # fmt: skip
    vast.script("strangers", count=30)
    rows = customer.json("show", "instances")
    assert len(rows) == 31
    assert [row["id"] for row in rows if row["is_bid"]] == [created["new_contract"]]
    assert vast.count("GET", "/api/v1/instances/") == 2


def test_the_official_library_makes_an_overlay_here_and_its_command_puts_machines_into_it(customer: Customer) -> None:
    vast = customer.vast
    vast.cluster(2, "H100 SXM", gpus=8, gpu_per_hour=16.0)
    offers = customer.json("search", "offers", "cluster_id=77 num_gpus=8")
    assert [offer["cluster_id"] for offer in offers] == [77, 77]
    clusters = customer.library("vast.show_clusters()")
    assert [node["machine_id"] for node in clusters["clusters"]["77"]["nodes"]] == [o["machine_id"] for o in offers]

    name = "gptops-0123456789ab"
    assert customer.library(f"vast.create_overlay(77, {name!r})")["success"] is True
    first_ask, second_ask = (str(offer["id"]) for offer in offers)
    created = customer.json("create", "instance", first_ask, "--image", "an/image:1", "--disk", "20", "--ssh",
                            "--direct", "--env", f"-n {name}")  # fmt: skip
    first = created["new_contract"]
    assert vast.box(first).request["env"] == {f"-n {name}": "1"}  # as ours sends it, too
    second = customer.json("create", "instance", second_ask, "--image", "an/image:1", "--disk", "20", "--ssh")
    customer.library(f"vast.join_overlay({name!r}, {second['new_contract']})")
    [shown] = customer.library("vast.show_overlays()")
    assert (shown["name"], shown["cluster_id"], shown["internal_subnet"]) == (name, 77, "10.1.0.0/24")
    assert shown["instances"] == [first, second["new_contract"]]

    customer.library(f"vast.delete_overlay({name!r})")
    assert (vast.overlays, vast.alive()) == ({}, []), "it takes the instances along, as its help says"
