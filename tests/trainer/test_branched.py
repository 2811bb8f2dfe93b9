"""A prompt computed once for all texts that begin with it: the same log-probabilities and gradients as apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.config import ModelConfig
from trainer.models.branched import branched_rows, label_logps
from trainer.models.build import build_model
from trainer.models.language_model import LanguageModel
from trainer.models.loss import IGNORE_INDEX

PROMPT, VOCABULARY, PAD = 20, 61, 0
ANSWERS = (3, 7, 1)


def texts(prompts: int = 2) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:  # type: ignore[type-arg]
    """Shifted rows: the answers of each prompt, of which everything is learnt, padded."""
    drawn = np.random.default_rng(0)
    width = PROMPT + max(ANSWERS) - 1
    shape = (prompts * len(ANSWERS), width)
    ids, labels = np.full(shape, PAD, dtype=np.int64), np.full(shape, IGNORE_INDEX, dtype=np.int64)
    groups = [[prompt + prompts * answer for answer in range(len(ANSWERS))] for prompt in range(prompts)]
    for prompt, group in enumerate(groups):
        asked = drawn.integers(1, VOCABULARY, PROMPT - 4 * prompt)
        for row, length in zip(group, ANSWERS, strict=True):
            text = np.concatenate((asked, drawn.integers(1, VOCABULARY, length)))
            ids[row, : len(text) - 1] = text[:-1]
            labels[row, len(asked) - 1 : len(text) - 1] = text[len(asked) :]
    return ids, labels, groups


def network(kind: str) -> LanguageModel:
    settings = {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 28, "vocab_size": VOCABULARY}
    torch.manual_seed(0)
    model = build_model(ModelConfig(arch=kind, **settings)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("kind", ["gpt2", "modern"])
def test_texts_in_one_row_have_the_log_probabilities_and_gradients_they_have_apart(kind: str) -> None:
    ids, labels, groups = texts()
    rows = branched_rows(ids, labels, groups, PAD)
    assert rows is not None
    assert rows.ids_BS.shape == (2, PROMPT - 1 + sum(ANSWERS) + len(ANSWERS) - 3)
    assert rows.ids_BS.shape[1] > 28 - 1, "a row may be longer than the positions, as long as no text is"
    found = []
    for given in (rows, None):
        model = network(kind)
        logps = label_logps(model, torch.from_numpy(ids), torch.from_numpy(labels), given, 0.7)
        (logps * torch.linspace(-1, 1, logps.numel()).view_as(logps)).sum().backward()
        found.append((logps.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}))
    (logps, gradients), (apart, gradients_apart) = found
    torch.testing.assert_close(logps, apart, rtol=0, atol=2e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, gradients_apart[name], rtol=1e-4, atol=1e-4)


def test_what_a_text_says_is_not_seen_by_another() -> None:
    ids, labels, groups = texts(1)
    other = ids.copy()
    other[0, PROMPT : PROMPT + 2] = 1 + other[0, PROMPT : PROMPT + 2] % (VOCABULARY - 1)
    model = network("gpt2")
    with torch.no_grad():
        one, two = (
            label_logps(
                model, torch.from_numpy(each), torch.from_numpy(labels), branched_rows(each, labels, groups, PAD)
            )
            for each in (ids, other)
        )
    assert not torch.equal(one[0], two[0])
    assert torch.equal(one[1:], two[1:])


def test_a_prompt_that_saves_nothing_is_not_shared() -> None:
    ids = np.arange(1, 33).reshape(4, 8)
    assert branched_rows(ids, ids + 1, [[0, 2], [1, 3]], PAD) is None
    assert branched_rows(ids[:0], ids[:0], [], PAD) is None
