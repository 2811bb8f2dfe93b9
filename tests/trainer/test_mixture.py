"""Every source has its share of the tokens, exactly, whoever asks for which sample."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import ConfigError, run_config
from trainer.data import Mixture, Part, Sampler, prepare_all
from trainer.data.mixture import counts_of, mixture_folder, splits_of
from trainer.errors import DataError

WEIGHTS = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6)


def data_section(**values: object) -> dict[str, object]:
    return {"model": {"max_seq_len": 8}, "data": {"tokenizer": {"kind": "bytes"}, **values}}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """Three sources of 100, 50 and 20 training rows of 8; their texts are a, b and c."""
    root = tmp_path_factory.mktemp("mixture")
    for letter, rows in {"a": 100, "b": 50, "c": 20}.items():
        (root / f"{letter}.txt").write_text(letter * (rows * 16))
    weights = {str(root / "a.txt"): 0.5, str(root / "b.txt"): 0.3, str(root / "c.txt"): 0.2}
    config = run_config(data_section(datasets=weights, val_fraction=0.5), source="test")
    return prepare_all(config.data, root / "out")


@settings(max_examples=200, deadline=None)
@given(weights=WEIGHTS, samples=st.integers(0, 10**12))
def test_every_source_has_its_share_to_within_a_sample_for_each_source(weights: list[float], samples: int) -> None:
    counts = counts_of(splits_of(weights), samples)
    assert sum(counts) == samples
    wanted = np.array(weights) / sum(weights) * samples
    assert np.abs(np.array(counts) - wanted).max() <= len(weights) + samples * 1e-12


@settings(max_examples=100, deadline=None)
@given(weights=WEIGHTS, first=st.integers(0, 10**9))
def test_each_sample_comes_from_one_source_and_is_its_next(weights: list[float], first: int) -> None:
    splits = splits_of(weights)
    before = counts_of(splits, first)
    for sample in range(first, first + 30):
        after = counts_of(splits, sample + 1)
        assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0] * (len(weights) - 1) + [1]
        before = after


def test_the_interleaving_never_changes_between_versions() -> None:
    """A run that is resumed by another version must go on with the same rows."""
    splits = splits_of([0.5, 0.3, 0.2])
    counts = [counts_of(splits, samples) for samples in range(11)]
    taken = [next(n for n in range(3) if b[n] > a[n]) for a, b in itertools.pairwise(counts)]
    assert taken == [0, 1, 0, 2, 0, 1, 0, 2, 0, 1]
    assert counts_of(splits, 10**15) == (500_000_000_000_000, 300_000_000_000_001, 199_999_999_999_999)


def test_the_rows_of_every_source_come_once_an_epoch(mixture: Mixture) -> None:
    sampler = Sampler(mixture, "train", 8)
    assert [rows.num_rows for rows in sampler.parts] == [100, 50, 20]
    rows = sampler.shuffled(1337, range(1000))
    letters = [chr(row[0]) for row in rows]
    assert [letters.count(letter) for letter in "abc"] == [500, 300, 200]
    assert sampler.shares(1000) == {part.name: part.weight for part in mixture.parts}
    assert [round(epochs, 6) for epochs in sampler.epochs(1000).values()] == [5, 6, 10], "c runs dry first, and again"


def test_a_source_that_runs_dry_begins_again_in_another_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n:03d}" for n in range(200)))
    (tmp_path / "b.txt").write_text("x" * 9000)
    weights = {str(tmp_path / "a.txt"): 0.5, str(tmp_path / "b.txt"): 0.5}
    config = run_config(data_section(datasets=weights), source="test")
    sampler = Sampler(prepare_all(config.data, tmp_path / "out"), "train", 3)
    rows = [tuple(row) for row in sampler.shuffled(7, range(4 * 180)) if row[0] != ord("x")]
    first, second = rows[:180], rows[180:]
    assert sampler.parts[0].num_rows == 180
    assert len(set(first)) == 180, "every row before any comes again"
    assert set(first) == set(second)
    assert first != second


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_rows_do_not_depend_on_how_they_are_asked_for(mixture: Mixture, world: int) -> None:
    sampler = Sampler(mixture, "train", 8)
    whole = sampler.shuffled(1, range(120, 156))
    parts = [sampler.shuffled(1, range(120 + rank, 156, world)) for rank in range(world)]
    assert all((part == whole[rank::world]).all() for rank, part in enumerate(parts))


def test_validation_takes_the_shares_too_and_no_row_twice(mixture: Mixture) -> None:
    sampler = Sampler(mixture, "val", 8)
    assert [rows.num_rows for rows in sampler.parts] == [99, 49, 19]
    assert sampler.num_samples == 97, "the 98th would be the 20th row of c"
    letters = [chr(row[0]) for row in sampler.in_sequence(range(sampler.num_samples))]
    assert [letters.count(letter) for letter in "abc"] == [49, 29, 19]


def test_another_weight_or_another_text_is_another_mixture(mixture: Mixture) -> None:
    a, b, c = mixture.parts
    others = [
        Mixture((a, b)),
        Mixture((b, a, c)),
        Mixture((Part(a.name, 0.4, a.shards), Part(b.name, 0.4, b.shards), c)),
    ]
    assert len({mixture.identity, *(other.identity for other in others)}) == 4
    assert Mixture((a,)).identity == a.shards.identity


def test_a_bpe_is_trained_once_on_all_sources(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abab " * 300)
    (tmp_path / "b.txt").write_text("xyxy " * 300)
    section = {
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
        "datasets": {str(tmp_path / "a.txt"): 0.5, str(tmp_path / "b.txt"): 0.5},
    }
    config = run_config({"data": section}, source="test")
    mixture = prepare_all(config.data, tmp_path / "out")
    tokenizer = mixture.load_tokenizer()
    assert len(tokenizer.encode(" abab")) == len(tokenizer.encode(" xyxy")) == 1
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert prepare_all(config.data, tmp_path / "out").identity == mixture.identity
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_folders_of_shards_are_mixed_with_the_tokenizer_they_have(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abab " * 300)
    tokenizer = {"kind": "bpe", "vocab_size": 300}
    text = {"path": str(tmp_path / "a.txt"), "tokenizer": tokenizer}
    for name, fraction in (("one", 0.1), ("two", 0.2)):
        prepare_all(run_config({"data": {**text, "val_fraction": fraction}}, source="test").data, tmp_path / name)
    weights = {str(tmp_path / "one"): 0.5, str(tmp_path / "two"): 0.5}
    config = run_config({"data": {"datasets": weights, "tokenizer": tokenizer}}, source="test")
    mixture = prepare_all(config.data, tmp_path / "out")
    assert [part.shards.root for part in mixture.parts] == [tmp_path / "one", tmp_path / "two"]
    assert not (tmp_path / "out").exists()
    weights = {str(tmp_path / "one"): 0.5, str(tmp_path / "a.txt"): 0.5}
    config = run_config({"data": {"datasets": weights, "tokenizer": tokenizer}}, source="test")
    with pytest.raises(DataError, match="prepared already"):
        prepare_all(config.data, tmp_path / "out")


def test_sources_of_different_tokenizers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text " * 30)
    for kind in ("bytes", "bpe"):
        size = {"vocab_size": 300} if kind == "bpe" else {}
        config = run_config(
            {"data": {"path": str(tmp_path / "a.txt"), "tokenizer": {"kind": kind, **size}}}, source="test"
        )
        prepare_all(config.data, tmp_path / kind)
    section = {"tokenizer": {"kind": "bytes"}, "datasets": {str(tmp_path / "bytes"): 0.5, str(tmp_path / "bpe"): 0.5}}
    with pytest.raises(DataError, match="not the one asked for"):
        prepare_all(run_config({"data": section}, source="test").data, tmp_path / "out")


def test_folders_of_sources_have_names_for_any_file_system(tmp_path: Path) -> None:
    names = ["fineweb", "hf:a/b:c@d", "../x y/$(z)", "ünï", "/", "x" * 300]
    folders = [mixture_folder(tmp_path, name) for name in names]
    assert len(set(folders)) == len(names)
    for folder in folders:
        folder.mkdir()
    assert folders[0].name.startswith("fineweb-")


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        (
            {"fineweb": 0.6, "c4": 0.3},
            "the weights sum to 0.9, not to 1; in these proportions: {fineweb: 0.6667, c4: 0.3333}",
        ),
        ({"fineweb": 60, "c4": 40}, "the weights sum to 100, not to 1; in these proportions: {fineweb: 0.6, c4: 0.4}"),
        ({"fineweb": 0.6, "fineweb:sample-10BT": 0.4}, "`fineweb` and `fineweb:sample-10BT` are the same source"),
        ({"hf:allenai/c4:en": 0.6, "c4": 0.4}, "`hf:allenai/c4:en` and `c4` are the same source"),
        ({"texts": 0.6, "./texts/": 0.4}, "`texts` and `./texts/` are the same source: add their weights up"),
        ({"fineweb": 0.0, "c4": 1.0}, "`0.0` is not allowed: should be greater than 0"),
        ({"fineweb": 1.5, "c4": -0.5}, "should be greater than 0"),
        ({"hf:nobody": 1.0}, "`hf:nobody` is not of the form hf:owner/name"),
        ({"": 1.0}, "a dataset without a name"),
    ],
)
def test_a_mixture_that_means_nothing_is_refused(datasets: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config({"data": {"datasets": datasets}}, source="train.yaml")
    assert message in str(caught.value)
    assert "train.yaml: data" in str(caught.value)


def test_a_name_given_twice_in_yaml_is_refused(tmp_path: Path) -> None:
    from trainer.config.yaml import parse_yaml

    with pytest.raises(ConfigError, match="`c4` stands twice"):
        parse_yaml("data:\n  datasets: {c4: 0.5, c4: 0.5}\n", "train.yaml")


def test_thirds_may_be_rounded_and_a_source_may_have_columns_of_its_own() -> None:
    datasets = {"c4": 0.333, "fineweb": 0.333, "hf:a/b": {"weight": 0.333, "text_column": "body"}}
    config = run_config({"data": {"datasets": datasets, "text_column": "content"}}, source="test").data
    parts = config.parts()
    assert [weight for weight, _ in parts.values()] == pytest.approx([1 / 3] * 3, rel=1e-12)
    assert [part.text_column for _, part in parts.values()] == ["content", "content", "body"]


def test_a_path_beside_datasets_is_refused() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        run_config({"data": {"path": "texts", "datasets": {"c4": 1.0}}}, source="test")
