"""A batch, a learning rate and a length to begin with, for a model of some size, each with its reason.

Published rules, put in numbers: a place to start from, not an optimum; none was tuned again here. No torch.

Bi et al. 2024 (DeepSeek LLM, arXiv 2401.02954, equation 1) and Brown et al. 2020 (GPT-3, arXiv 2005.14165, table 2.1)
were held against copies of those formulas; Kaplan et al. 2020 (arXiv 2001.08361, appendix D.6) was not, it is from
memory, and meets GPT-3's rate at 125M parameters within a tenth. Muon's numbers are the defaults of
github.com/KellerJordan/Muon (README) and of `setup_optimizer` in nanochat/gpt.py of github.com/karpathy/nanochat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from trainer.config import RunConfig
from trainer.sizing import flops_per_token, num_parameters

TOKENS_PER_PARAMETER = 20
"""Hoffmann et al. 2022: about the most useful number for a compute budget."""

RATES = ((125e6, 6e-4), (350e6, 3e-4), (760e6, 2.5e-4), (1.3e9, 2e-4), (2.7e9, 1.6e-4), (6.7e9, 1.2e-4))
"""Parameters and AdamW's peak rate: Brown et al. 2020, table 2.1."""

MATRIX_LR = 0.02
"""Of Muon: KellerJordan/Muon and nanochat alike."""

_HEAD_LR, _TUNED_WIDTH = 0.004, 768
"""nanochat's rate of AdamW for the head, and the width it was tuned at; it falls with the root of the width."""

_EMBEDDING_FACTOR = 5
"""nanochat's embeddings take fifty times the head's rate and begin at 1; ours begin at 0.1. Untuned but for
`shakespeare-char`."""

_SMALLEST_BATCH = 8192
"""Tokens. The law of _tokens_per_step was fitted on more compute than it would be asked for below."""


@dataclass(frozen=True)
class Advice:
    """One number, how to write it, and why."""

    setting: str
    """`optim.lr=0.0006`: to be pasted behind a command."""
    reason: str


def advice(config: RunConfig) -> list[Advice]:
    """What to begin with for the model and the optimizer of `config`, in rows of its length."""
    parameters = num_parameters(config.model)
    tokens = TOKENS_PER_PARAMETER * parameters
    per_step = _tokens_per_step(tokens * flops_per_token(config.model))
    rows = max(1, round(per_step / config.seq_len))
    steps = max(1, round(tokens / (rows * config.seq_len)))
    return [
        Advice(
            f"train.global_batch_size={rows}",
            f"{rows * config.seq_len:,} tokens a step: 0.292 C^0.3271 for a run of C = "
            f"{tokens * flops_per_token(config.model):.1e} FLOPs (Bi et al. 2024, equation 1)",
        ),
        Advice(
            f"train.max_steps={steps}",
            f"{TOKENS_PER_PARAMETER} tokens for each of {parameters:,} parameters (Hoffmann et al. 2022)",
        ),
        *_rates(config, parameters),
        Advice(
            f"schedule.warmup_steps={min(max(steps // 50, 5), 2000)}",
            "a fiftieth of the run: Adam's averages are those of many steps before the peak",
        ),
    ]


def _rates(config: RunConfig, parameters: int) -> list[Advice]:
    if config.optim.kind == "adamw":
        return [Advice(f"optim.lr={suggested_lr(parameters):.2g}", _reason_of_lr(parameters))]
    lr = _HEAD_LR * math.sqrt(_TUNED_WIDTH / config.model.d_model)
    return [
        Advice(
            f"optim.matrix_lr={MATRIX_LR}",
            "an orthogonal update has the same size in every model: the default of Muon's authors and of nanochat; "
            "runs of few hundred steps took up to twice as much here",
        ),
        Advice(
            f"optim.lr={lr:.2g}",
            f"of the head: nanochat's {_HEAD_LR} for width {_TUNED_WIDTH}, times the root of {_TUNED_WIDTH} / width; "
            f"embeddings that begin at 0.1 take {_EMBEDDING_FACTOR} times as much, untuned "
            f"(`optim.embedding_lr={_EMBEDDING_FACTOR * lr:.2g}`)",
        ),
    ]


def suggested_lr(parameters: int) -> float:
    """AdamW's peak rate for so many parameters."""
    if parameters <= RATES[0][0]:
        return 0.003239 - 0.0001395 * math.log(parameters)
    for (few, high), (many, low) in pairwise(RATES):
        if parameters <= many:
            share = math.log(parameters / few) / math.log(many / few)
            return math.exp(math.log(high) + share * math.log(low / high))
    return RATES[-1][1]


def _reason_of_lr(parameters: int) -> str:
    if parameters <= RATES[0][0]:
        return f"0.003239 - 0.0001395 ln N for N = {parameters:,} parameters (Kaplan et al. 2020, appendix D.6)"
    return f"between the rates GPT-3's sizes were trained with, for {parameters:,} parameters (Brown et al. 2020, 2.1)"


def _tokens_per_step(flops: float) -> float:
    return max(float(_SMALLEST_BATCH), 0.292 * math.pow(flops, 0.3271))
