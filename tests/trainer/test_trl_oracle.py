"""Post-training's losses against TRL's own trainers: the same weights, the same rows, the same numbers.

What TRL does otherwise is shown too: IPO over means, ORPO's likelihood over the prompt as well, a first token that is
counted and never predicted, positions that count padding.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from trainer.chats.encoding import Encoded
from trainer.chats.packing import packed_rows
from trainer.chats.pairs import EncodedPair
from trainer.config import ModelConfig, run_config
from trainer.models.gpt2_weights import from_gpt2
from trainer.models.model import GPT
from trainer.models.value_head import add_value_head
from trainer.rollouts.rows import RolloutRow
from trainer.rollouts.scored import token_logps
from trainer.stages import preference_losses as losses
from trainer.stages import rl_losses
from trainer.stages.grpo import GrpoStage
from trainer.stages.preference_batch import AnswerLogps, answer_logps, pair_batch
from trainer.stages.reward import RewardStage
from trainer.stages.rl_batch import rl_batch

pytest.importorskip("trl", reason="TRL is the oracle: pip install 'gptops[oracles]' (Python 3.11 or newer)")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*is deprecated:FutureWarning"),
]

CPU = torch.device("cpu")
PAD, VOCABULARY, WIDTH = 0, 97, 32
SHAPE = {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 48, "vocab_size": VOCABULARY}
OFF = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": PAD, "eos_token_id": PAD}
LENGTHS = ((5, 4, 7), (9, 3, 2), (2, 8, 8), (1, 6, 3))
"""Ids of the prompt, of the chosen and of the rejected answer."""


def drawn_gpt2(seed: int, kind: Any = GPT2LMHeadModel, **more: Any) -> Any:
    """Weights five times as large as usual, so that no answer is like another."""
    torch.manual_seed(seed)
    model = kind(GPT2Config(**SHAPE, **OFF, pad_token_id=PAD, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5) if parameter.dim() > 1 else None
    return model


def ours_of(theirs: Any) -> GPT:
    config = ModelConfig(d_model=WIDTH, n_layers=2, n_heads=2, max_seq_len=48, vocab_size=VOCABULARY)
    model = GPT(config).eval()
    state = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("score")}
    model.load_state_dict(from_gpt2(state, config))
    return model


@pytest.fixture(scope="module")
def theirs() -> Any:
    return drawn_gpt2(1)


@pytest.fixture(scope="module")
def ours(theirs: Any) -> GPT:
    return ours_of(theirs)


@pytest.fixture(scope="module")
def pairs() -> list[EncodedPair]:
    drawn = np.random.default_rng(3)
    found = []
    for prompt, *answers in LENGTHS:
        asked = drawn.integers(1, VOCABULARY, prompt)
        sides = [np.concatenate((asked, drawn.integers(1, VOCABULARY, length))) for length in answers]
        found.append(EncodedPair(*(Encoded(ids.astype(np.int32), np.arange(len(ids)) >= prompt) for ids in sides)))
    return found


@pytest.fixture(scope="module", autouse=True)
def _state_of_accelerate() -> Iterator[None]:
    """TRL's trainers leave one; trainings of ours in the same process begin without."""
    yield
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    found = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token="w0", pad_token="w0")


def arguments(folder: Path) -> dict[str, Any]:
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    plain = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "per_device_train_batch_size": 4}
    return {"output_dir": str(folder), **quiet, **plain}


def rows_of(columns: dict[str, list[Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(columns)


def columns_of(pairs: list[EncodedPair]) -> dict[str, list[Any]]:
    begins = [int(pair.chosen.is_trained.argmax()) for pair in pairs]
    return {
        "prompt_ids": [pair.chosen.ids[:begin].tolist() for pair, begin in zip(pairs, begins, strict=True)],
        "chosen_ids": [pair.chosen.ids[begin:].tolist() for pair, begin in zip(pairs, begins, strict=True)],
        "rejected_ids": [pair.rejected.ids[begin:].tolist() for pair, begin in zip(pairs, begins, strict=True)],
    }


def examples(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


# --- preferences -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dpo(theirs: Any, pairs: list[EncodedPair], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., float]:
    """TRL's loss of the pairs by its name, with a reference of other weights."""
    from trl import DPOConfig, DPOTrainer

    class OfIds(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    columns = columns_of(pairs)
    trainer = OfIds(
        theirs,
        ref_model=drawn_gpt2(2),
        args=DPOConfig(**arguments(tmp_path_factory.mktemp("dpo")), beta=0.1),
        train_dataset=rows_of(columns),
        processing_class=tokenizer(),
    )

    def loss(name: str, *, beta: float = 0.1, label_smoothing: float = 0.0, only: int | None = None) -> float:
        trainer.loss_types, trainer.beta, trainer.label_smoothing = [name], beta, label_smoothing
        chosen = examples(columns) if only is None else examples(columns)[only : only + 1]
        with torch.no_grad():
            return float(trainer._compute_loss(trainer.model, trainer.data_collator(chosen), False))

    return loss


@pytest.fixture(scope="module")
def found(ours: GPT, pairs: list[EncodedPair]) -> tuple[AnswerLogps, AnswerLogps]:
    """Ours of the policy and of the reference."""
    batch = pair_batch(pairs, range(len(pairs)), PAD, CPU)
    with torch.no_grad():
        return answer_logps(ours, batch), answer_logps(ours_of(drawn_gpt2(2)), batch)


def margin(found: tuple[AnswerLogps, AnswerLogps], *, mean: bool = False) -> torch.Tensor:
    sides = [(one.chosen_mean_P, one.rejected_mean_P) if mean else (one.chosen_P, one.rejected_P) for one in found]
    return losses.log_ratio_margin(*sides[0], *sides[1])


def test_dpo_hinge_and_ipo_are_trls(found: tuple[AnswerLogps, AnswerLogps], dpo: Callable[..., float]) -> None:
    summed = margin(found)
    assert float(losses.dpo_sigmoid(summed, 0.1).mean()) == pytest.approx(dpo("sigmoid"), abs=4e-6)
    assert float(losses.dpo_hinge(summed, 0.1).mean()) == pytest.approx(dpo("hinge"), abs=4e-6)
    assert float(losses.ipo(margin(found, mean=True), 0.5).mean()) == pytest.approx(dpo("ipo", beta=0.5), abs=4e-6)
    assert float(losses.ipo(summed, 0.5).mean()) != pytest.approx(dpo("ipo", beta=0.5), rel=0.01)


def test_conservative_dpo_is_trls_smoothed_loss_where_it_has_one(
    found: tuple[AnswerLogps, AnswerLogps], dpo: Callable[..., float]
) -> None:
    """TRL's sigmoid ignores the smoothing; its `aot` of a single pair is DPO, smoothed."""
    theirs = [dpo("aot", label_smoothing=0.2, only=place) for place in range(len(LENGTHS))]
    assert losses.dpo_sigmoid(margin(found), 0.1, 0.2).tolist() == pytest.approx(theirs, abs=4e-6)
    assert dpo("sigmoid", label_smoothing=0.2) == dpo("sigmoid")


def test_orpo_is_trls_but_for_the_prompt_in_its_likelihood(
    theirs: Any, pairs: list[EncodedPair], found: tuple[AnswerLogps, AnswerLogps]
) -> None:
    from trl.experimental.orpo import ORPOTrainer

    alone = types.SimpleNamespace(device=CPU, gather_for_metrics=lambda numbers: numbers)
    stub = types.SimpleNamespace(
        beta=0.1, accelerator=alone, is_encoder_decoder=False, aux_loss_enabled=False, padding_value=PAD
    )
    for name in ("concatenated_inputs", "get_batch_logps"):
        setattr(stub, name, getattr(ORPOTrainer, name))
    for name in ("concatenated_forward", "odds_ratio_loss"):
        setattr(stub, name, types.MethodType(getattr(ORPOTrainer, name), stub))
    batch: dict[str, torch.Tensor] = {}
    for side in ("chosen", "rejected"):
        rows = [getattr(pair, side) for pair in pairs]
        ids = [torch.from_numpy(row.ids).long() for row in rows]
        learnt = [torch.from_numpy(np.where(row.is_trained, row.ids, -100)).long() for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        batch[f"{side}_input_ids"] = pad(ids, batch_first=True, padding_value=PAD)
        batch[f"{side}_attention_mask"] = pad([torch.ones_like(each) for each in ids], batch_first=True)
        batch[f"{side}_labels"] = pad(learnt, batch_first=True, padding_value=-100)
    with torch.no_grad():
        loss, told = ORPOTrainer.get_batch_loss_metrics(stub, theirs, batch)
    chosen_P, rejected_P = found[0].chosen_mean_P, found[0].rejected_mean_P
    assert float(chosen_P.mean()) == pytest.approx(told["logps/chosen"], abs=4e-6)
    term_P = losses.orpo(chosen_P, rejected_P, 0.1) + chosen_P
    assert float(term_P.mean()) == pytest.approx(float(loss) - told["nll_loss"], abs=4e-6)
    assert -float(chosen_P.mean()) != pytest.approx(told["nll_loss"], rel=1e-3)


# --- conversations ---------------------------------------------------------------------------------------------------


def test_sft_is_trls_loss_where_the_first_token_is_not_learnt(
    theirs: Any, ours: GPT, pairs: list[EncodedPair], tmp_path: Path
) -> None:
    from trl import SFTConfig, SFTTrainer

    rows = [pair.chosen for pair in pairs]
    columns = {
        "input_ids": [row.ids.tolist() for row in rows],
        "completion_mask": [row.is_trained.astype(int).tolist() for row in rows],
    }
    trainer = SFTTrainer(
        theirs,
        args=SFTConfig(**arguments(tmp_path), completion_only_loss=True),
        train_dataset=rows_of(columns),
        processing_class=tokenizer(),
    )

    def their_loss(batch: dict[str, torch.Tensor]) -> float:
        _, counted = trainer.get_batch_samples(iter([batch]), 1, CPU)
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=counted))

    def our_loss(rows: list[Encoded]) -> tuple[float, int]:
        packed = packed_rows([[row] for row in rows], PAD)
        with torch.no_grad():
            output = ours(torch.from_numpy(packed.ids_BT), torch.from_numpy(packed.labels_BT))
        assert output.loss_sum is not None
        return float(output.loss_sum) / packed.num_units, packed.num_units

    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(len(rows))])
    assert our_loss(rows)[0] == pytest.approx(their_loss(batch), abs=4e-6)

    # Rows learnt whole: TRL counts the first label of each row, which nothing predicts.
    whole = [Encoded(row.ids, np.ones(len(row), dtype=bool)) for row in rows]
    learnt_whole = dict(batch, labels=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100))
    loss, units = our_loss(whole)
    assert their_loss(learnt_whole) == pytest.approx(loss * units / (units + len(rows)), abs=4e-6)


# --- rewards ---------------------------------------------------------------------------------------------------------


def test_a_reward_model_has_trls_loss(pairs: list[EncodedPair], tmp_path: Path) -> None:
    """Ours reads the token before the one that ends an answer, so TRL gets the answers without it."""
    from trl import RewardConfig, RewardTrainer

    class OfIds(RewardTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    theirs = drawn_gpt2(4, GPT2ForSequenceClassification, num_labels=1)
    sides = ("chosen", "rejected")
    columns = {f"{side}_ids": [getattr(pair, side).ids[:-1].tolist() for pair in pairs] for side in sides}
    trainer = OfIds(
        theirs,
        args=RewardConfig(**arguments(tmp_path)),
        train_dataset=rows_of(columns),
        processing_class=tokenizer(),
    )
    with torch.no_grad():
        expected = float(trainer.compute_loss(trainer.model, trainer.data_collator(examples(columns))))

    policy = ours_of(theirs)
    add_value_head(policy)
    assert policy.value_head is not None
    policy.value_head.load_state_dict({"weight": theirs.score.weight, "bias": torch.zeros(1)})
    batch = pair_batch(pairs, range(len(pairs)), PAD, CPU)
    with torch.no_grad():
        loss = RewardStage.loss(types.SimpleNamespace(), policy, batch).loss_sum / len(pairs)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(expected, abs=4e-6)


# --- groups ----------------------------------------------------------------------------------------------------------

GROUP, SAMPLED = 4, (6, 2, 5, 6)


class Rewards:
    """A reward function that remembers what it gave."""

    __name__ = "rewards"

    def __init__(self) -> None:
        self.given: list[float] = []

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        drawn = np.random.default_rng(7)
        self.given = [round(float(number), 2) for number in drawn.random(len(completions))]
        return self.given


@pytest.fixture(scope="module")
def rewards() -> Rewards:
    return Rewards()


@pytest.fixture(scope="module")
def grpo(theirs: Any, rewards: Rewards, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    given = {**arguments(tmp_path_factory.mktemp("grpo")), "per_device_train_batch_size": 2 * GROUP}
    return GRPOTrainer(
        theirs,
        rewards,
        args=GRPOConfig(**given, num_generations=GROUP, max_completion_length=max(SAMPLED)),
        train_dataset=rows_of({"prompt": ["w3 w1 w4", "w1 w5 w9"]}),
        processing_class=tokenizer(),
    )


def sampled_rows(prompts: tuple[int, ...], policy: GPT) -> list[RolloutRow]:
    """Completions whose tokens were a little more or less likely when they were drawn: some ratios are clipped."""
    drawn = np.random.default_rng(5)
    rows = []
    for number, (prompt, sampled) in enumerate(zip(prompts, SAMPLED, strict=True)):
        ids = drawn.integers(1, VOCABULARY, prompt + sampled).astype(np.int32)
        rows.append(RolloutRow(ids, np.arange(len(ids)) >= prompt, number))
    found = token_logps(policy, rows, temperature=1.0, pad_id=PAD, micro_batch_size=len(rows))
    return [
        row.having(
            advantages=row.spread(float(drawn.normal())),
            old_logps=(logps + drawn.normal(0, 0.3, len(logps)).astype(np.float32)) * row.is_sampled[1:],
        )
        for row, (logps, _) in zip(rows, found, strict=True)
    ]


def inputs_of(rows: list[RolloutRow]) -> dict[str, Any]:
    """As TRL holds them: prompts padded on the left, completions on the right."""
    prompts = [row.ids[~row.is_sampled] for row in rows]
    widest, longest = max(map(len, prompts)), max(SAMPLED)
    found = {
        "prompt_ids": torch.full((len(rows), widest), PAD),
        "prompt_mask": torch.zeros(len(rows), widest, dtype=torch.int64),
        "completion_ids": torch.full((len(rows), longest), PAD),
        "completion_mask": torch.zeros(len(rows), longest, dtype=torch.int64),
        "old_per_token_logps": torch.zeros(len(rows), longest),
        "advantages": torch.tensor([float(row.tokens["advantages"][-1]) for row in rows]),
        "num_items_in_batch": torch.tensor(sum(row.num_sampled for row in rows)),
    }
    for place, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        found["prompt_ids"][place, widest - len(prompt) :] = torch.from_numpy(prompt)
        found["prompt_mask"][place, widest - len(prompt) :] = 1
        found["completion_ids"][place, : row.num_sampled] = torch.from_numpy(row.ids[row.is_sampled])
        found["completion_mask"][place, : row.num_sampled] = 1
        found["old_per_token_logps"][place, : row.num_sampled] = torch.from_numpy(
            row.tokens["old_logps"][row.is_sampled[1:]]
        )
    return found


def test_advantages_of_groups_are_trls(grpo: Any, rewards: Rewards) -> None:
    asked = [{"prompt": prompt} for prompt in ("w3 w1 w4", "w1 w5 w9") for _ in range(GROUP)]
    advantages = grpo._generate_and_score_completions(asked)["advantages"]
    ours = rl_losses.group_advantages(torch.tensor(rewards.given).view(-1, GROUP), by_std=True)
    assert ours.flatten().tolist() == pytest.approx(advantages.tolist(), abs=4e-6)


@pytest.mark.parametrize("name", ["dapo", "grpo", "dr_grpo"])
def test_grpo_has_trls_loss_where_no_prompt_is_padded(ours: GPT, grpo: Any, name: str) -> None:
    rows = sampled_rows((5, 5, 5, 5), ours)
    grpo.loss_type = name
    with torch.no_grad():
        expected = float(grpo._compute_loss(grpo.model, inputs_of(rows)))
    config = run_config({"grpo": {"loss": name}, "rollout": {"max_tokens": max(SAMPLED)}}, source="test")
    stage = GrpoStage(types.SimpleNamespace(config=config, tokenizer=None))  # type: ignore[arg-type]
    batch = rl_batch(rows, unit=stage.unit, is_dry=False, pad_id=PAD, device=CPU)
    with torch.no_grad():
        loss = stage.loss(ours, batch).loss_sum / batch.num_units
    assert float(loss) == pytest.approx(expected, abs=4e-6)


def test_where_prompts_are_padded_trl_asks_a_gpt2_at_the_wrong_positions(ours: GPT, grpo: Any) -> None:
    rows = sampled_rows((5, 2, 4, 5), ours)
    given = inputs_of(rows)
    ids, mask = (torch.cat([given[f"prompt_{kind}"], given[f"completion_{kind}"]], 1) for kind in ("ids", "mask"))
    with torch.no_grad():
        theirs, *_ = grpo._get_per_token_logps_and_entropies(grpo.model, ids, mask, max(SAMPLED))
    batch = rl_batch(rows, unit="token", is_dry=False, pad_id=PAD, device=CPU)
    with torch.no_grad():
        output = ours(batch.ids_BT, batch.labels_BT, per_token=True)
    assert output.logps is not None
    away = []
    for place, row in enumerate(rows):
        mine = output.logps[place, : len(row.ids) - 1][torch.from_numpy(row.is_sampled[1:])]
        away.append(float((mine - theirs[place, : row.num_sampled]).abs().max()))
    assert max(away[0], away[3]) < 2e-5
    assert min(away[1], away[2]) > 0.1
