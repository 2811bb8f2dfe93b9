"""Datasets of a hub become shards, streamed by the real `datasets`, through whatever goes wrong on the way."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.doubles.hub import Hub, running_hub
from tests.doubles.hub_reader import HubReader, hub_reader
from trainer.tokenizer import END_OF_TEXT

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def reader(served: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubReader]:
    with hub_reader(served.endpoint, tmp_path_factory.mktemp("home")) as reading:
        yield reading


@pytest.fixture
def hub(served: Hub) -> Iterator[Hub]:
    """The hub, behaving well again."""
    served.faults.clear()
    served.requests.clear()
    yield served
    served.faults.clear()


def parquet(rows_in_a_group: int = 100, compression: str = "snappy", **columns: Sequence[Any]) -> bytes:
    file = io.BytesIO()
    table = pyarrow.table({name: list(values) for name, values in columns.items()})
    pyarrow.parquet.write_table(table, file, row_group_size=rows_in_a_group, compression=compression)
    return file.getvalue()


def web_pages(first: int, count: int) -> list[str]:
    return [
        f"Page {number} says: " + "some words of its own, " * (number % 7) for number in range(first, first + count)
    ]


def publish_fineweb(hub: Hub) -> list[str]:
    """Three files of FineWeb's layout; returns the texts in their order."""
    texts = [web_pages(1000 * file, 120) for file in range(3)]
    ids = list(map(str, range(120)))
    files = {f"sample/10BT/00{n}_00000.parquet": parquet(50, text=part, id=ids) for n, part in enumerate(texts)}
    hub.publish_dataset("HuggingFaceFW/fineweb", files, config="sample-10BT")
    return [text for part in texts for text in part]


def joined(texts: Sequence[str]) -> str:
    return "".join(text + END_OF_TEXT for text in texts)


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_fineweb_is_streamed_by_its_name_and_every_document_is_there(
    hub: Hub, reader: HubReader, tmp_path: Path
) -> None:
    texts = publish_fineweb(hub)
    newest = hub.version("datasets", "HuggingFaceFW/fineweb", "main")
    made = reader.prepare(tmp_path, path="fineweb")
    assert made["text"] == joined(texts)
    assert made["documents"] == 360
    assert newest is not None
    assert made["version"] == newest.commit
    assert made["shares"] == sorted(made["shares"])


def test_what_was_prepared_needs_no_hub_the_second_time(hub: Hub, reader: HubReader, tmp_path: Path) -> None:
    publish_fineweb(hub)
    first = reader.prepare(tmp_path, path="fineweb")
    before = tree(tmp_path)
    hub.requests.clear()
    again = reader.prepare(tmp_path, path="fineweb:sample-10BT")
    assert (again["identity"], again["said"], hub.requests) == (first["identity"], 0, [])
    assert tree(tmp_path) == before


def test_killed_while_streaming_it_goes_on_where_it_was_with_the_same_bytes(
    hub: Hub, reader: HubReader, tmp_path: Path
) -> None:
    publish_fineweb(hub)
    reader.prepare(tmp_path / "straight", path="fineweb")
    for kill_after in (3, 4):
        with hub_reader(hub.endpoint, tmp_path / "home") as killed:
            assert killed.prepare(tmp_path / "out", path="fineweb", kill_after=kill_after) == {}
    done_before = json.loads((tmp_path / "out" / "progress.json").read_text())
    assert done_before["mark"]["place"]["file"] == 1, "the second kill came in the second file"
    hub.requests.clear()
    hub.publish_dataset("HuggingFaceFW/fineweb", {"sample/10BT/other.parquet": parquet(text=["new"])})
    reader.prepare(tmp_path / "out", path="fineweb")
    assert tree(tmp_path / "out") == tree(tmp_path / "straight"), "the commit that was begun with, not the newest"


@pytest.mark.parametrize(
    ("name", "dataset", "config", "file"),
    [
        ("fineweb-edu", "HuggingFaceFW/fineweb-edu", "sample-10BT", "sample/10BT/000_00000.parquet"),
        ("openwebtext", "Skylion007/openwebtext", "plain_text", "plain_text/train-00000-of-00080.parquet"),
    ],
)
def test_sources_with_a_column_of_text_are_read_by_their_names(
    hub: Hub, reader: HubReader, tmp_path: Path, name: str, dataset: str, config: str, file: str
) -> None:
    texts = web_pages(0, 30)
    hub.publish_dataset(dataset, {file: parquet(text=texts)}, config=config)
    assert reader.prepare(tmp_path, path=name)["text"] == joined(texts)


def test_c4_is_read_from_its_compressed_lines(hub: Hub, reader: HubReader, tmp_path: Path) -> None:
    texts = web_pages(0, 30)
    lines = gzip.compress("".join(json.dumps({"text": text, "url": "https://x"}) + "\n" for text in texts).encode())
    hub.publish_dataset("allenai/c4", {"en/c4-train.00000-of-00001.json.gz": lines}, config="en")
    assert reader.prepare(tmp_path, path="c4", max_tokens=100_000)["text"] == joined(texts)


def test_synth_is_written_as_question_reasoning_and_answer(hub: Hub, reader: HubReader, tmp_path: Path) -> None:
    columns = {"query": ["Why?", None], "synthetic_reasoning": ["Because.", None], "synthetic_answer": ["So.", ""]}
    hub.publish_dataset("PleIAs/SYNTH", {"synth_001.parquet": parquet(**columns, words=[1, 2])})
    made = reader.prepare(tmp_path, path="synth", max_tokens=1000)
    assert made["text"] == joined(["Q: Why?\n\nReasoning:\nBecause.\n\nA: So."])


def test_the_lines_of_wikitext_become_articles(hub: Hub, reader: HubReader, tmp_path: Path) -> None:
    lines = [
        "",
        " = Robert = \n",
        "",
        " An actor . \n",
        " = = Career = = \n",
        " Plays . \n",
        " = Du Fu = \n",
        " A poet . \n",
    ]
    hub.publish_dataset("Salesforce/wikitext", {"w/train-0.parquet": parquet(text=lines)}, config="wikitext-103-raw-v1")
    made = reader.prepare(tmp_path, path="wikitext")
    assert made["text"] == joined(["".join(lines[1:6]), "".join(lines[6:])])


def test_any_dataset_is_read_with_a_column_or_a_template(hub: Hub, reader: HubReader, tmp_path: Path) -> None:
    file = parquet(title=["One", "Two"], body=["first", "second"])
    hub.publish_dataset("some-one/their.set", {"data/test-0.parquet": file}, config="plain", split="test")
    path = "hf:some-one/their.set:plain@test"
    assert reader.prepare(tmp_path / "a", path=path, text_column="body")["text"] == joined(["first", "second"])
    made = reader.prepare(tmp_path / "b", path=path, template="# {title}\n{body}")
    assert made["text"] == joined(["# One\nfirst", "# Two\nsecond"])


def test_samples_and_tokens_can_be_limited(hub: Hub, reader: HubReader, tmp_path: Path) -> None:
    texts = publish_fineweb(hub)
    assert reader.prepare(tmp_path / "a", path="fineweb", max_samples=7)["text"] == joined(texts[:7])
    cut = reader.prepare(tmp_path / "b", path="fineweb", max_tokens=1000)
    assert cut["tokens"] == 1000
    assert cut["text"] == joined(texts)[: 999 + (cut["documents"] - 1) * (len(END_OF_TEXT) - 1)] + END_OF_TEXT


def test_a_dropped_connection_is_taken_up_again(hub: Hub, reader: HubReader, tmp_path: Path) -> None:
    texts = publish_fineweb(hub)
    drop = hub.fail("001_00000.parquet", after_bytes=60, times=9)
    assert reader.prepare(tmp_path, path="fineweb")["text"] == joined(texts)
    assert drop.met == 9


def test_a_hub_that_asks_to_wait_is_asked_again(hub: Hub, reader: HubReader, tmp_path: Path) -> None:
    texts = publish_fineweb(hub)
    limits = [hub.fail("/api/datasets/", status=429, times=2), hub.fail("002_00000", status=429, times=9)]
    assert reader.prepare(tmp_path, path="fineweb")["text"] == joined(texts)
    assert [limit.met for limit in limits] == [2, 9]


def test_a_hub_that_never_stops_asking_to_wait_keeps_what_is_prepared(
    hub: Hub, reader: HubReader, tmp_path: Path
) -> None:
    texts = publish_fineweb(hub)
    hub.fail("002_00000", status=429)
    error = reader.prepare(tmp_path, path="fineweb")["error"]
    assert error["what"] == "the hub asks to come back later: `HuggingFaceFW/fineweb`"
    assert "8 attempts" in error["why"]
    assert "HF_TOKEN" in error["hint"]
    assert json.loads((tmp_path / "progress.json").read_text())["tokens"] > 0
    hub.faults.clear()
    assert reader.prepare(tmp_path, path="fineweb")["text"] == joined(texts)


def _missing_file(hub: Hub) -> str:
    hub.publish_dataset("a/holes", {"a.parquet": parquet(text=["a"]), "b.parquet": parquet(text=["b"])})
    hub.fail("b.parquet", status=404, headers={"X-Error-Code": "EntryNotFound"})
    return "hf:a/holes"


def _gated(hub: Hub) -> str:
    hub.publish_dataset("a/guarded", {"a.parquet": parquet(text=["a"])})
    hub.guard("a/guarded")
    return "hf:a/guarded"


def _other_columns(hub: Hub) -> str:
    hub.publish_dataset("a/columns", {"a.parquet": parquet(content=["a"], id=["1"])})
    return "hf:a/columns"


def _other_columns_in_lines(hub: Hub) -> str:
    hub.publish_dataset("a/lines", {"a.jsonl": '{"content": "a", "id": 1}\n'})
    return "hf:a/lines"


def _no_text(hub: Hub) -> str:
    hub.publish_dataset("a/numbers", {"a.parquet": parquet(text=[1, 2])})
    return "hf:a/numbers"


def _cut_off(hub: Hub) -> str:
    whole = parquet(text=["x" * 500] * 500, compression="none")
    hub.publish_dataset("a/cut", {"a.parquet": whole[: len(whole) // 2]})
    return "hf:a/cut"


def _hole_in_the_middle(hub: Hub) -> str:
    whole = parquet(100, text=[f"{n}" * 300 for n in range(500)], compression="none")
    hub.publish_dataset("a/hole", {"a.parquet": whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :]})
    return "hf:a/hole"


def _bytes_that_do_not_unpack(compression: str) -> Callable[[Hub], str]:
    def spoil(hub: Hub) -> str:
        whole = parquet(100, text=[f"{n} {n * n}" * 9 for n in range(500)], compression=compression)
        hub.publish_dataset(f"a/{compression}", {"a.parquet": whole[:900] + bytes(400) + whole[1300:]})
        return f"hf:a/{compression}"

    return spoil


def _cut_off_lines(hub: Hub) -> str:
    lines = gzip.compress("".join(json.dumps({"text": f"{n} {n * n}"}) + "\n" for n in range(3000)).encode())
    hub.publish_dataset("a/cut-lines", {"a.json.gz": lines[: len(lines) // 2]})
    return "hf:a/cut-lines"


@pytest.mark.parametrize(
    ("spoil", "what", "hint"),
    [
        (lambda hub: "hf:a/nobody", "there is no dataset `a/nobody` on the hub, or it is private", "HF_TOKEN"),
        (_gated, "the dataset `a/guarded` is gated", "HF_TOKEN"),
        (_missing_file, "the dataset `a/holes` lacks a file that it lists", "try again later"),
        (_other_columns, "`hf:a/columns`: there is no column `text`", "`data.text_column=NAME`"),
        (_other_columns_in_lines, "`hf:a/lines`: there is no column `text`", "`data.text_column=NAME`"),
        (_no_text, "`hf:a/numbers`: the column `text` holds no text", "`data.text_column=NAME`"),
        (_cut_off, "a file of the dataset `a/cut` is cut off or damaged", "hf download"),
        (_hole_in_the_middle, "a file of the dataset `a/hole` is cut off or damaged", "hf download"),
        (_bytes_that_do_not_unpack("snappy"), "a file of the dataset `a/snappy` is cut off or damaged", "hf download"),
        (_bytes_that_do_not_unpack("zstd"), "a file of the dataset `a/zstd` is cut off or damaged", "hf download"),
        (_cut_off_lines, "a file of the dataset `a/cut-lines` is cut off or damaged", "hf download"),
        (lambda hub: _other_columns(hub) + ":none", "the dataset `a/columns` has no configuration `none`", "CONFIG`"),
        (lambda hub: _other_columns(hub) + "@none", "the dataset `a/columns` has no split `none`", "@SPLIT`"),
    ],
)
def test_what_cannot_be_read_says_what_why_and_what_to_do(
    hub: Hub, reader: HubReader, tmp_path: Path, spoil: Callable[[Hub], str], what: str, hint: str
) -> None:
    error = reader.prepare(tmp_path / "out", path=spoil(hub))["error"]
    assert error["what"] == what
    assert error["why"]
    assert hint in error["hint"]
    assert "look at" not in error["hint"] or f"look at {hub.endpoint}/datasets/a/" in error["hint"], "the hub asked"
    assert not any("\n" in line for line in error.values())
    assert [path.name for path in (tmp_path / "out").glob("*")] == [".lock"], "nothing is left"


def test_a_hub_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with hub_reader(endpoint, tmp_path / "home") as reading:
            error = reading.prepare(tmp_path / "out", path="fineweb")["error"]
    assert error["what"] == f"cannot reach the hub: {endpoint}"
    assert error["why"].startswith("8 attempts")
    assert f"curl -sI {endpoint}" in error["hint"]
