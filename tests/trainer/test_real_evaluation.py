"""Real weights against lm-evaluation-harness itself: the same rows, the same figures.

Needs lm-eval (`gptops[eval]`) and a folder with SmolLM2-135M, named by GPTOPS_SMOLLM2; skipped where either is absent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.evaluation.continuations import likelihoods
from trainer.evaluation.harness import harness_results
from trainer.evaluation.hellaswag import Question, accuracy, continuation, read_questions
from trainer.evaluation.models import MeasuredModel, open_measured

ROWS = Path(__file__).parents[3] / "shared" / "data" / "hellaswag_val_sample.jsonl"
FOLDER = os.environ.get("GPTOPS_SMOLLM2", "")
LIMIT = 40

pytestmark = [
    pytest.mark.skipif(not FOLDER, reason="needs GPTOPS_SMOLLM2, a folder with SmolLM2-135M for transformers"),
    pytest.mark.skipif(not ROWS.is_file(), reason=f"needs {ROWS}"),
    pytest.mark.filterwarnings("default"),  # lm-eval's own
]


@pytest.fixture(scope="module")
def smollm2() -> MeasuredModel:
    return open_measured(FOLDER, torch.device("cpu"))


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return read_questions(ROWS, LIMIT)


@pytest.fixture(scope="module")
def peer() -> Any:
    models = pytest.importorskip("lm_eval.models.huggingface", reason='needs lm-eval: pip install "gptops[eval]"')
    return models.HFLM(pretrained=FOLDER, device="cpu", dtype="float32", batch_size=8)


def test_every_ending_has_the_likelihood_that_lm_eval_gives_it(
    smollm2: MeasuredModel, questions: list[Question], peer: Any
) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks.hellaswag.utils import preprocess

    pairs = [(each.harness_context, " " + preprocess(ending)) for each in questions for ending in each.endings]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    theirs = peer.loglikelihood(requests, disable_tqdm=True)
    ours = likelihoods(smollm2, [continuation(smollm2, *pair) for pair in pairs])
    differences = [abs(mine.logp - logp) for mine, (logp, _) in zip(ours, theirs, strict=True)]
    assert max(differences) < 1e-3
    assert [mine.is_greedy for mine in ours] == [greedy for _, greedy in theirs]


def test_accuracy_in_the_harness_style_is_lm_evals(
    smollm2: MeasuredModel, questions: list[Question], peer: Any, tmp_path: Path
) -> None:
    import json

    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()[:LIMIT]]
    whole = tmp_path / "rows.jsonl"
    whole.write_text(
        "".join(
            json.dumps({"query": q.harness_context, "choices": list(q.endings), "gold": int(row["label"])}) + "\n"
            for q, row in zip(questions, rows, strict=True)
        )
    )
    (tmp_path / "task.yaml").write_text(
        f"task: rows\ndataset_path: json\ndataset_kwargs: {{data_files: {{validation: {whole}}}}}\n"
        "output_type: multiple_choice\nvalidation_split: validation\ndoc_to_text: '{{query}}'\n"
        "doc_to_target: '{{gold}}'\ndoc_to_choice: choices\n"
        "metric_list: [{metric: acc}, {metric: acc_norm}]\n"
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = simple_evaluate(model=peer, tasks=["rows"], task_manager=manager, bootstrap_iters=0)["results"]["rows"]
    ours = accuracy(smollm2, questions, "harness")
    assert ours.acc == pytest.approx(found["acc,none"])
    assert ours.acc_norm == pytest.approx(found["acc_norm,none"])


def test_lm_eval_runs_its_tasks_on_a_model_of_ours(smollm2: MeasuredModel, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason='needs lm-eval: pip install "gptops[eval]"')
    (tmp_path / "rows.jsonl").write_text('{"q": "The sky is", "c": ["blue.", "a fish of seven."], "a": 0}\n')
    (tmp_path / "task.yaml").write_text(
        f"task: sky\ndataset_path: json\ndataset_kwargs: {{data_files: {{validation: {tmp_path}/rows.jsonl}}}}\n"
        "output_type: multiple_choice\nvalidation_split: validation\ndoc_to_text: '{{q}}'\n"
        "doc_to_target: '{{a}}'\ndoc_to_choice: c\nmetric_list: [{metric: acc}]\n"
    )
    found = harness_results(smollm2, [str(tmp_path / "task.yaml")], limit=None)
    assert next(iter(found.values()))["acc"] == 1.0
