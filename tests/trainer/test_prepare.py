"""A corpus becomes shards once, whole or not at all, however hard it is interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.gpt2_bpe import gpt2_cache
from tests.trainer.unprivileged import open_folder, unprivileged
from trainer.config import DataConfig, TokenizerConfig
from trainer.data import Mixture, Progress, ShardSet, TokenRows, encoding, open_shards, prepare
from trainer.data.opening import open_source
from trainer.data.progress import Clock
from trainer.errors import DataError, ExitCode, TrainerError
from trainer.preparing import progress_line, summary
from trainer.tokenizer import END_OF_TEXT, pieces

ROOT = Path(__file__).parents[2]
SHAKESPEARE = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
BYTES = TokenizerConfig(kind="bytes")
BPE = TokenizerConfig(kind="bpe", vocab_size=400)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("To be, or not to be, that is the question.\n" * 30)
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(50)))
    return folder


def config(path: Path, tokenizer: TokenizerConfig = BYTES, **values: object) -> DataConfig:
    return DataConfig(path=str(path), tokenizer=tokenizer, **values)  # type: ignore[arg-type]


def stream(shards: ShardSet) -> list[int]:
    out = np.empty(shards.tokens, np.int64)
    shards.copy_into(out, 0)
    return out.tolist()


def tree(folder: Path) -> dict[str, str]:
    """Every file below `folder` with its hash."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
def test_every_document_is_in_the_shards_and_ends_with_end_of_text(
    corpus: Path, tmp_path: Path, tokenizer: TokenizerConfig
) -> None:
    (corpus / "empty.txt").write_text("")
    shards = prepare(config(corpus, tokenizer), tmp_path / "out", shard_tokens=100)
    text = shards.load_tokenizer().decode(stream(shards))
    wanted = [(corpus / "a.txt").read_text(), *(f"row {i}" for i in range(50))]
    assert text == "".join(document + END_OF_TEXT for document in wanted)
    assert shards.documents == 51
    assert shards.val_tokens == round(shards.tokens * 0.1)
    assert len(shards.index.shards) == -(-shards.tokens // 100)


def test_a_long_document_gives_the_ids_it_gives_as_a_whole(tmp_path: Path) -> None:
    text = "".join(f"It's line {i}, with   some spaces \n\n" for i in range(8_000))
    (tmp_path / "a.txt").write_text(text)
    shards = prepare(config(tmp_path, BPE), tmp_path / "out")
    assert len(list(pieces([text]))) > 2
    assert stream(shards) == [*shards.load_tokenizer().encode(text), shards.eot_id]


def test_documents_without_text_are_left_out_and_counted(corpus: Path, tmp_path: Path) -> None:
    (corpus / "c.jsonl").write_text('{"text": ""}\n{"text": null}\n{"text": " \\n"}\n{"text": "x"}\n')
    shards = prepare(config(corpus), tmp_path / "out")
    assert (shards.documents, shards.index.empty_documents) == (52, 3)
    assert "52 documents (3 without text left out)" in summary(Mixture.of_one(shards))


def test_what_is_finished_is_not_done_again(corpus: Path, tmp_path: Path) -> None:
    first = prepare(config(corpus, BPE), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    said: list[Progress] = []
    again = prepare(config(corpus, BPE), tmp_path / "out", said.append)
    assert again.identity == first.identity
    assert said == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_finished_folder_needs_no_right_to_write() -> None:
    with open_folder() as folder:
        (folder / "a.txt").write_text("some text")
        first = prepare(config(folder), folder / "out")
        with unprivileged():
            assert prepare(config(folder), folder / "out").identity == first.identity


@pytest.mark.parametrize(
    "change",
    [
        lambda corpus: (corpus / "a.txt").write_text("something else"),
        lambda corpus: (corpus / "c.md").write_text("one more"),
        lambda corpus: (corpus / "b.jsonl").unlink(),
        lambda corpus: (corpus / "a.txt").rename(corpus / "z.txt"),
    ],
    ids=["written", "added", "removed", "renamed"],
)
def test_a_changed_corpus_is_prepared_anew(corpus: Path, tmp_path: Path, change: Callable[[Path], object]) -> None:
    first = prepare(config(corpus), tmp_path / "out")
    change(corpus)
    second = prepare(config(corpus), tmp_path / "out")
    assert second.identity != first.identity
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "index.json", second.index.folder]
    assert len(stream(first)) == first.tokens, "whoever had the old shards open can go on"


@pytest.mark.parametrize("change", [{"tokenizer": BPE}, {"val_fraction": 0.3}])
def test_a_changed_configuration_is_prepared_anew(corpus: Path, tmp_path: Path, change: dict[str, object]) -> None:
    first = prepare(config(corpus), tmp_path / "out")
    second = prepare(config(corpus).model_copy(update=change), tmp_path / "out")
    assert second.identity != first.identity
    assert open_shards(tmp_path / "out").identity == second.identity


def test_the_same_text_has_the_same_identity_wherever_it_is(corpus: Path, tmp_path: Path) -> None:
    first = prepare(config(corpus, BPE), tmp_path / "out", shard_tokens=100)
    moved = corpus.rename(tmp_path / "$(touch moved) 'x\ny")
    os.utime(moved / "a.txt", (1, 1))
    second = prepare(config(moved, BPE), tmp_path / "an 'other\n$(out)", shard_tokens=77)
    assert second.identity == first.identity
    assert second.index.fingerprint != first.index.fingerprint


@pytest.mark.parametrize("name", ["tokens_00000.bin", "tokenizer/identity.json", "tokenizer/tokenizer.json"])
def test_what_was_damaged_is_made_again_where_the_corpus_is_there(corpus: Path, tmp_path: Path, name: str) -> None:
    shards = prepare(config(corpus, BPE), tmp_path / "out")
    whole = tree(tmp_path / "out")
    path = shards.root / shards.index.folder / name
    path.write_bytes(path.read_bytes()[:-10])
    prepare(config(corpus, BPE), tmp_path / "out")
    assert tree(tmp_path / "out") == whole


def test_a_prepared_folder_is_opened_where_it_is(corpus: Path, tmp_path: Path) -> None:
    first = prepare(config(corpus, BPE), tmp_path / "shards")
    second = prepare(config(tmp_path / "shards", BPE), tmp_path / "out")
    assert second.identity == first.identity
    assert second.root == tmp_path / "shards"
    assert not (tmp_path / "out").exists()


def test_a_prepared_folder_of_another_tokenizer_is_refused(corpus: Path, tmp_path: Path) -> None:
    prepare(config(corpus), tmp_path / "shards")
    with pytest.raises(DataError, match="not the one asked for") as caught:
        prepare(config(tmp_path / "shards", BPE), tmp_path / "out")
    assert caught.value.hint == "`data.tokenizer.kind=bytes`"


def test_a_damaged_prepared_folder_is_refused(corpus: Path, tmp_path: Path) -> None:
    shards = prepare(config(corpus), tmp_path / "shards")
    path = shards.root / shards.index.folder / "tokens_00000.bin"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="cannot be used") as caught:
        prepare(config(tmp_path / "shards"), tmp_path / "out")
    assert "truncated" in caught.value.why
    (tmp_path / "shards" / "index.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        prepare(config(tmp_path / "shards"), tmp_path / "out")


def test_progress_counts_up_to_the_whole_corpus(corpus: Path, tmp_path: Path) -> None:
    said: list[Progress] = []
    shards = prepare(config(corpus, BPE), tmp_path / "out", said.append)
    assert [progress.phase for progress in said] == ["tokenizer", "tokens", "tokens"]
    total = sum(path.stat().st_size for path in corpus.iterdir())
    assert all(0 < progress.bytes_done <= progress.bytes_total == total for progress in said)
    last = said[-1]
    assert (last.documents, last.tokens, last.bytes_done) == (shards.documents, shards.tokens, total)
    assert last.tokens_per_second > 0


def test_the_time_that_is_left_is_counted_by_the_limit_that_is_nearest(corpus: Path) -> None:
    seconds = iter([100.0, 110.0, 120.0])
    limited = config(corpus, max_tokens=1000)
    clock = Clock(limited, open_source(limited), 200, now=lambda: next(seconds))
    first = clock.look(documents=3, tokens=300, samples=3, bytes_done=10)
    assert (first.share, first.eta_seconds, first.tokens_per_second) == (0.3, None, 10.0)
    second = clock.look(documents=4, tokens=500, samples=4, bytes_done=20)
    assert (second.share, second.tokens_per_second) == (0.5, 15.0)
    assert second.eta_seconds == pytest.approx(20 * 0.5 / 0.2)
    name = f"`{corpus}`"
    assert progress_line(second) == (
        f"encoding {name}  [############------------]  50%  4 documents  500 tokens  tok/s 15  eta 50s"
    )
    assert progress_line(Progress("waiting", "`c4`")) == "another process prepares `c4`"


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
def test_an_empty_corpus_is_refused_and_leaves_nothing(tmp_path: Path, tokenizer: TokenizerConfig) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("")
    (tmp_path / "corpus" / "b.jsonl").write_text('\n{"text": ""}\n')
    with pytest.raises(DataError, match="is empty") as caught:
        prepare(config(tmp_path / "corpus", tokenizer), tmp_path / "out")
    assert "2 documents, 14 bytes" in caught.value.why
    assert os.listdir(tmp_path / "out") == [".lock"]


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
def test_a_bad_row_leaves_the_older_shards_as_they_were(
    corpus: Path, tmp_path: Path, tokenizer: TokenizerConfig
) -> None:
    prepare(config(corpus, tokenizer), tmp_path / "out")
    before = tree(tmp_path / "out")
    with (corpus / "b.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(DataError, match="line 51: not JSON"):
        prepare(config(corpus, tokenizer), tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_ctrl_c_leaves_the_older_shards_as_they_were(corpus: Path, tmp_path: Path) -> None:
    prepare(config(corpus), tmp_path / "out")
    before = tree(tmp_path / "out")

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config(corpus, val_fraction=0.5), tmp_path / "out", interrupt)
    after = tree(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert all(".tmp/" in name or name == "progress.json" for name in after.keys() - before.keys())
    prepare(config(corpus), tmp_path / "out")
    assert tree(tmp_path / "out") == before, "what was half done for another input is removed"


class AskedToStop(TrainerError):
    exit_code = ExitCode.STOPPED


def test_what_was_asked_to_stop_goes_on_later(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 100)
    said: list[Progress] = []

    def stop_at_the_third(progress: Progress) -> None:
        said.append(progress)
        if len(said) == 3:
            raise AskedToStop("stopped by SIGTERM")

    with pytest.raises(AskedToStop):
        prepare(config(corpus), tmp_path / "out", stop_at_the_third)
    done, before = said[-1].tokens, len(said)
    prepare(config(corpus), tmp_path / "out", said.append)
    assert said[before].tokens > done, "what was done is not done again"
    prepare(config(corpus), tmp_path / "straight")
    assert tree(tmp_path / "out") == tree(tmp_path / "straight")


def test_a_corpus_that_changes_while_it_is_read_is_refused(corpus: Path, tmp_path: Path) -> None:
    def meddle(progress: Progress) -> None:
        (corpus / "new.txt").write_text("too late")

    with pytest.raises(DataError, match="changed while it was read"):
        prepare(config(corpus), tmp_path / "out", meddle)
    assert os.listdir(tmp_path / "out") == [".lock"]


def test_a_folder_that_may_not_be_written_is_said() -> None:
    with open_folder() as folder:
        (folder / "a.txt").write_text("some text")
        os.chmod(folder, 0o555)
        with unprivileged(), pytest.raises(DataError, match="cannot write to") as caught:
            prepare(config(folder), folder / "out")
        assert caught.value.why == "Permission denied"
        assert caught.value.hint.endswith("`out_dir=FOLDER`")


def test_a_file_where_the_folder_should_be_is_said(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="cannot write to"):
        prepare(config(corpus), tmp_path / "out")


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("x" * 100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # as a full disk does, this fails a write half way
    try:
        with pytest.raises(DataError, match="cannot write to") as caught:
            prepare(config(tmp_path / "corpus"), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.why == "File too large"
    assert os.listdir(tmp_path / "out") == [".lock"]


KILLED = """
import filecmp, os, shutil, signal, sys
from pathlib import Path
from trainer.config import DataConfig, TokenizerConfig
from trainer.data import encoding, open_shards, prepare

encoding.BATCH_CHARACTERS = 300
corpus, before, out, straight = map(Path, sys.argv[1:])

def prepare_and_die(kill_at):
    steps = 0

    def watch(event, arguments):
        nonlocal steps
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir") or writes:
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    config = DataConfig(path=str(corpus), tokenizer=TokenizerConfig(kind="bpe", vocab_size=300))
    prepare(config, Path(out), shard_tokens=150)

def was_killed(kill_at):
    child = os.fork()
    if child == 0:
        try:
            prepare_and_die(kill_at)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, status
    open_shards(out)
    return os.WIFSIGNALED(status)

def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

kills, wanted = 0, tree(straight)
while True:
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(before, out)
    if not was_killed(kills + 1):
        break
    kills += 1
    was_killed(kills // 2 + 1)
    was_killed(0)
    assert tree(out) == wanted, (kills, sorted(tree(out)))
sys.exit(f"{kills} kills")
"""


def test_killed_at_any_step_the_next_run_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    """SIGKILL before a file is opened, a folder made, renamed or removed: at the first such step, or the second, or…

    Each time it is killed once more, somewhere in what is left, and then goes on to the end. Older shards stay whole
    until the new ones are.
    """
    bpe = config(corpus, BPE.model_copy(update={"vocab_size": 300}))
    prepare(bpe, tmp_path / "straight", shard_tokens=150)
    (tmp_path / "old.txt").write_text("older text")
    prepare(config(tmp_path / "old.txt"), tmp_path / "before")

    folders = [str(folder) for folder in (corpus, tmp_path / "before", tmp_path / "out", tmp_path / "straight")]
    done = subprocess.run([sys.executable, "-c", KILLED, *folders], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stderr.endswith(" kills\n"), done.stderr
    assert int(done.stderr.split()[0]) > 20


def test_two_processes_at_once_do_the_work_once(corpus: Path, tmp_path: Path) -> None:
    program = """if True:
        import sys
        from pathlib import Path
        from trainer.config import DataConfig, TokenizerConfig
        from trainer.data import prepare
        config = DataConfig(path=sys.argv[1], tokenizer=TokenizerConfig(kind="bpe", vocab_size=300))
        reports = []
        print(prepare(config, Path(sys.argv[2]), reports.append).identity, {report.phase for report in reports})
    """
    command = [sys.executable, "-c", program, str(corpus), str(tmp_path / "out")]
    both = [subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][0] == said[1][0]
    assert sum("'tokens'" in " ".join(words) for words in said) == 1
    assert open_shards(tmp_path / "out").identity == said[0][0]


def test_who_waits_for_another_process_is_told(corpus: Path, tmp_path: Path) -> None:
    inner: list[Progress] = []

    def report(progress: Progress) -> None:
        """From inside the first one, start a second: it must wait, so it is given up as soon as it says so."""
        if inner:
            return

        def give_up(waiting: Progress) -> None:
            inner.append(waiting)
            raise InterruptedError

        with pytest.raises((InterruptedError, DataError)):
            prepare(config(corpus), tmp_path / "out", give_up)

    prepare(config(corpus), tmp_path / "out", report)
    assert [progress.phase for progress in inner] == ["waiting"]


def test_the_sample_can_be_trained_on_at_once(tmp_path: Path) -> None:
    shards = prepare(DataConfig(tokenizer=BYTES), tmp_path / "out")
    assert shards.tokens == 469_302
    assert TokenRows(shards, "train", 1024).num_rows == 412
    assert TokenRows(shards, "val", 1024).num_rows == 45


def test_gpt2_counts_of_tinyshakespeare_in_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not SHAKESPEARE.exists():
        pytest.skip(f"{SHAKESPEARE} is not there")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(gpt2_cache(tmp_path / "tiktoken")))
    sections = SHAKESPEARE.read_text(encoding="utf-8").split("\n\n")
    texts = [section + "\n\n" for section in sections[:-1]] + sections[-1:]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "sections.jsonl").write_text(lines)
    shards = prepare(DataConfig(path=str(tmp_path / "sections.jsonl")), tmp_path / "out")
    assert shards.tokens == 338_028, "llm.c's count: 32,768 for validation and 305,260 to train on"
    assert shards.documents == len(sections)
