"""`gptops offers` as a person types it, against the double of Vast: what stands on stdout, what beside it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.books.ledger import Ledger
from launcher.cli import main
from launcher.clock import SystemClock
from launcher.errors import ExitCode
from launcher.paths import state_paths
from tests.doubles.fixtures import vast_rows  # noqa: F401 (a fixture)
from tests.doubles.vast_cloud import VastCloud

JOBS = """\
jobs:
  train:
    stage: pretrain
    provider: vast
    resources: {gpus: 8, gpu_names: [H100, A100], disk_gib: 200}
    train:
      model: {preset: gpt2, vocab_size: 50304}
      data: {path: corpus, tokenizer: {kind: gpt2}}
      train: {max_steps: 19073, global_batch_size: 512, micro_batch_size: 32}
      schedule: {warmup_steps: 700}
      checkpoint: {every_steps: 500}
"""


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call gptops in a project with a job."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.yaml").write_text(JOBS)

    def gptops(*words: str) -> tuple[int, str, str]:
        code = main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return gptops


Typed = Callable[..., tuple[int, str, str]]


def test_the_best_for_the_job_stands_first_with_its_hours_and_its_cost(
    vast_rows: VastCloud,  # noqa: F811
    typed: Typed,
    golden: Callable[[str, str], None],
) -> None:
    vast_rows.sell("H100 SXM", gpus=8, gpu_per_hour=3.0, cuda_max_good=12.8)
    code, out, err = typed("offers", "--job", "train", "--all")
    assert code == 0
    golden("launcher_offers.txt", out + err)
    assert vast_rows.boxes == {}


def test_a_gpu_nobody_knows_is_said_and_stands_last(vast_rows: VastCloud, typed: Typed) -> None:  # noqa: F811
    vast_rows.sell("H900 H100", gpus=8, gpu_per_hour=0.5)
    _, out, err = typed("offers", "--job", "train")
    assert "H900" in out.splitlines()[-1]
    assert "not known how fast, so no forecast and last: H900 H100" in err


def test_json_has_every_offer_and_every_reason(vast_rows: VastCloud, typed: Typed) -> None:  # noqa: F811
    code, out, _ = typed("offers", "--job", "train", "--max-price", "18", "--json")
    assert code == 0
    found = json.loads(out)
    first = found["offers"][0]
    assert (first["offer_id"], first["gpus"]) == ("1006", 8)
    parts = first["predicted_gpu_usd"] + first["predicted_disk_usd"] + first["predicted_bandwidth_usd"]
    assert first["predicted_usd"] == pytest.approx(parts, abs=0.001)
    assert found["left_out_by"] == {"price": 1}
    assert found["left_out"][0]["reason"] == "$18.44/h, at most $18.00/h was wanted"


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["--gpu", "RTX_4090"], "1012"),
        (["--gpu", "RTX 4090", "--region", "SE"], "1001"),
        (["--gpu", "RTX 4090", "--disk", "100"], "1001"),
        (["--gpu", "H100", "--sort", "price"], "1004"),
        (["--gpus", "8", "--gpu", "H100", "--region", "DE", "--region", "SE"], "1007"),
        (["--gpu", "H100", "--spot"], "1004"),
        (["--gpu", "H100", "--bid", "1.12"], "1004"),
    ],
)
def test_flags_say_what_is_wanted(vast_rows: VastCloud, typed: Typed, words: list[str], first: str) -> None:  # noqa: F811
    code, out, _ = typed("offers", "--provider", "vast", "--json", *words)
    assert code == 0
    assert json.loads(out)["offers"][0]["offer_id"] == first


def test_spot_offers_cost_their_bid_and_the_disk(vast_rows: VastCloud, typed: Typed) -> None:  # noqa: F811
    _, out, _ = typed("offers", "--provider", "vast", "--gpu", "H100", "--bid", "1.5", "--json")
    offer = json.loads(out)["offers"][0]
    assert offer["spot"] is True
    assert offer["price_per_hour"] == pytest.approx(1.5 + offer["disk_per_hour"])


def test_where_nothing_fits_the_reasons_are_counted_and_a_flag_is_named(vast_rows: VastCloud, typed: Typed) -> None:  # noqa: F811
    code, out, err = typed("offers", "--job", "train", "--max-price", "3")
    assert (code, out) == (ExitCode.NO_OFFER, "")
    assert "left out: 3 by price" in err
    assert "--max-price 9.65 lets in 8x A100 SXM4" in err
    code, out, _ = typed("offers", "--job", "train", "--max-price", "3", "--json")
    assert code == ExitCode.NO_OFFER
    assert json.loads(out)["left_out_by"] == {"price": 3}


def test_without_a_provider_every_market_is_asked_that_there_is_a_key_for(
    vast_rows: VastCloud,  # noqa: F811
    typed: Typed,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("RUNPOD_API_KEY", "LAMBDA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, _ = typed("offers", "--gpu", "H100")
    assert code == 0
    assert " vast " in out
    monkeypatch.delenv("VAST_API_KEY")
    code, out, err = typed("offers")
    assert (code, out) == (ExitCode.KEY, "")
    assert "--provider local needs none" in err


def test_what_makes_no_sense_is_a_usage_error(vast_rows: VastCloud, typed: Typed) -> None:  # noqa: F811
    assert typed("offers", "--sort", "beauty")[0] == ExitCode.USAGE
    assert typed("offers", "--provider", "nimbus")[0] == ExitCode.USAGE
    code, _, err = typed("offers", "--on-demand", "--bid", "1")
    assert code == ExitCode.USAGE
    assert "--spot --bid 1" in err


@pytest.mark.parametrize(
    "wish",
    [
        ["--max-price", "0.1"],
        ["--region", "Atlantis"],
        ["--min-reliability", "0.999"],
        ["--disk", "5000"],
        ["--gpu", "GTX 480"],
        ["--spot", "--bid", "0.001"],
    ],
)
def test_the_flag_that_is_told_lets_something_in(vast_rows: VastCloud, typed: Typed, wish: list[str]) -> None:  # noqa: F811
    asked = ["offers", "--provider", "vast", *wish]
    code, _, err = typed(*asked)
    assert code == ExitCode.NO_OFFER
    told = re.search(r"^hint: +(--.*) lets in ", err, re.MULTILINE)
    assert told is not None, err
    code, out, err = typed(*asked, *shlex.split(told[1]))
    assert code == 0, err
    assert len(out.splitlines()) >= 2


def test_a_machine_that_failed_before_is_named_with_its_failure_and_may_be_insisted_on(
    vast_rows: VastCloud,  # noqa: F811
    typed: Typed,
) -> None:
    with Ledger(state_paths().ledger, SystemClock()) as ledger:
        ledger.ban_machine("vast", "80004", "`box` did not answer in 900 s")
        ledger.ban_machine("vast", "80005", "`box` shows no GPUs")
    asked = ["--provider", "vast", "--gpu", "H100"]
    code, _, err = typed("offers", *asked, "--all")
    assert code == ExitCode.NO_OFFER
    assert "1004  1x H100 SXM, Oregon, US: it failed before: `box` did not answer in 900 s" in err
    assert typed("up", *asked, "--dry-run")[0] == ExitCode.NO_OFFER
    assert typed("up", *asked, "--dry-run", "--offer", "1004")[0] == 0
