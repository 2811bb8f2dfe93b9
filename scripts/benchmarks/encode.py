"""How fast text becomes GPT-2 tokens on disk, in turn with nanoGPT's way, on all cores and the same file.

nanoGPT's way is its data/openwebtext/prepare.py: tiktoken, one document at a time under `datasets.map` with a process
for each core, then 1,024 slices of the result written to a memory-mapped file. Ours is `prepare`. Both read the same
.jsonl of documents; each turn is a process of its own, timed after its imports and after its first document, and what
both wrote is compared id for id. Speed is the median turn.

    python scripts/benchmarks/encode.py                   the plays that ship with the trainer, forty times over
    python scripts/benchmarks/encode.py FILE --rounds 5   a text of your own
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SIDES = ("gptops", "nanogpt")
PLAYS, REPEATED = ROOT / "trainer" / "data" / "shakespeare.txt", 40
DOCUMENT_CHARACTERS = 3000
CORES = os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="UTF-8 text")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(take_turn(options.side, options.file)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        corpus = written_corpus(options.file, Path(scratch))
        turns: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for number in range(options.rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                turns[side].append(turn(side, corpus, Path(scratch)))
    print(json.dumps(compared(turns)))


def written_corpus(file: Path | None, scratch: Path) -> Path:
    """The documents as .jsonl, which both sides read."""
    text = file.read_text(encoding="utf-8") if file else PLAYS.read_text(encoding="utf-8") * REPEATED
    documents = list(documents_of(text))
    path = scratch / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents), encoding="utf-8")
    print(f"{len(documents):,} documents, {path.stat().st_size:,} bytes, {CORES} cores", file=sys.stderr)
    return path


def documents_of(text: str) -> Iterator[str]:
    """Paragraphs together, until a document is as long as a page of the web is in FineWeb."""
    document = ""
    for paragraph in text.split("\n\n"):
        document += paragraph + "\n\n"
        if len(document) >= DOCUMENT_CHARACTERS:
            yield document
            document = ""
    if document.strip():
        yield document


def turn(side: str, corpus: Path, scratch: Path) -> dict[str, Any]:
    """One turn of one side while the other waits."""
    paths = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    quiet = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"}
    cache = os.environ.get("TIKTOKEN_CACHE_DIR") or str(merges_in(scratch / "tiktoken"))
    environment = {**os.environ, **quiet, "PYTHONPATH": paths, "TIKTOKEN_CACHE_DIR": cache}
    argv = [sys.executable, __file__, str(corpus), "--side", side]
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    print(f"{side:<8}  {result['tokens'] / result['seconds']:12,.0f} tok/s", file=sys.stderr, flush=True)
    return result


def merges_in(folder: Path) -> Path:
    """GPT-2's merges out of a package, where the machine has no network."""
    sys.path.insert(0, str(ROOT))
    from tests.trainer.gpt2_bpe import gpt2_cache

    return gpt2_cache(folder)


def take_turn(side: str, corpus: Path) -> dict[str, Any]:
    """The measured process: seconds from the file of text to the file of tokens, and what is in that."""
    with tempfile.TemporaryDirectory() as scratch:
        times, ids = ours(corpus, Path(scratch)) if side == "gptops" else theirs(corpus, Path(scratch))
    return {**times, "tokens": len(ids), "sha256": hashlib.sha256(ids.tobytes()).hexdigest()}


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds on the wall, and of all processors, of this process and its children."""
    times: dict[str, float] = {}
    wall, processors = time.perf_counter(), sum(os.times()[:4])
    yield times
    times |= {"seconds": time.perf_counter() - wall, "processor_seconds": sum(os.times()[:4]) - processors}


def ours(corpus: Path, scratch: Path) -> tuple[dict[str, float], Any]:
    import numpy as np

    from trainer.config import DataConfig
    from trainer.data import prepare
    from trainer.tokenizer import open_tokenizer

    config = DataConfig(path=str(corpus))
    open_tokenizer(config.tokenizer).encode("warm")
    with timed() as times:
        shards = prepare(config, scratch / "out")
    ids = np.empty(shards.tokens, np.uint16)
    shards.copy_into(ids, 0)
    return times, ids


def theirs(corpus: Path, scratch: Path) -> tuple[dict[str, float], Any]:
    import datasets
    import numpy as np
    import tiktoken

    encoding = tiktoken.get_encoding("gpt2")
    encoding.encode_ordinary("warm")

    def process(example: dict[str, Any]) -> dict[str, Any]:
        ids = encoding.encode_ordinary(example["text"])
        ids.append(encoding.eot_token)
        return {"ids": ids, "len": len(ids)}

    with timed() as times:
        rows = datasets.load_dataset("json", data_files=str(corpus), split="train", cache_dir=str(scratch / "cache"))
        tokenized = rows.map(process, remove_columns=["text"], num_proc=CORES)
        total = int(np.sum(tokenized["len"], dtype=np.uint64))
        out = np.memmap(scratch / "train.bin", dtype=np.uint16, mode="w+", shape=(total,))
        slices, place = min(1024, len(tokenized)), 0
        for number in range(slices):
            batch = tokenized.shard(num_shards=slices, index=number, contiguous=True).with_format("numpy")
            ids = np.concatenate(list(batch["ids"]))
            out[place : place + len(ids)] = ids
            place += len(ids)
        out.flush()
    return times, np.asarray(out)


def compared(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Both sides' medians and their ratio; the ids must be the same."""
    contents = {result["sha256"] for results in turns.values() for result in results}
    if len(contents) != 1:
        sys.exit("error: the two sides wrote different tokens")
    tokens = turns[SIDES[0]][0]["tokens"]
    speed = {side: tokens / statistics.median(result["seconds"] for result in turns[side]) for side in SIDES}
    ratio = round(speed["gptops"] / speed["nanogpt"], 3)
    work = {side: statistics.median(result["processor_seconds"] for result in turns[side]) for side in SIDES}
    print(f"ratio     {ratio:.2f} × on {tokens:,} equal tokens; processor seconds {work}", file=sys.stderr)
    return {
        "tokens": tokens,
        "cores": CORES,
        "tokens_per_second": {side: round(speed[side]) for side in SIDES},
        "ratio": ratio,
        "processor_seconds": {side: round(work[side], 2) for side in SIDES},
    }


if __name__ == "__main__":
    main()
