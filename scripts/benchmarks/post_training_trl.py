"""The side of TRL in post_training.py: its own trainers, `Trainer.train()`, on the ids that our side trains on.

Its settings are TRL's defaults but for these, which are then alike on both sides: no gradient checkpointing, the same
optimizer settings, number format, batch and lengths, and rows in one order. Nothing is saved or sent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import post_training_rows as rows
from transformers import TrainerCallback
from turns import Pace

_COPIES = 1000
"""Of the one batch, so that no step is the last of an epoch."""


def trained(case: str, side: str, size: str, folder: Path, precision: str, pace: Pace) -> None:
    """Build the trainer of a case and let it train; `pace` ends the process."""
    from datasets import concatenate_datasets
    from transformers import AutoModelForCausalLM, logging
    from transformers.utils.logging import disable_progress_bar

    logging.set_verbosity_error()
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder / size, attn_implementation="sdpa")
    made = {"dpo": _dpo, "sft": _sft, "grpo": _grpo}[case]
    trainer = made(model, rows.settings(case, side, size, folder, precision), side)
    trainer.train_dataset = concatenate_datasets([trainer.train_dataset] * _COPIES)
    trainer.add_callback(_Edges(pace))
    trainer.train()


class _Edges(TrainerCallback):  # type: ignore[misc]
    """Tells where steps begin."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._pace.edge()


def _arguments(settings: dict[str, Any], batch: int) -> dict[str, Any]:
    from trainer.config import OptimConfig

    ours = OptimConfig()
    return {
        "output_dir": settings["out_dir"],
        "per_device_train_batch_size": batch,
        "max_steps": settings["train"]["max_steps"],
        "bf16": settings["train"]["precision"] == "bf16",
        "use_cpu": True,
        "gradient_checkpointing": False,
        "learning_rate": settings["optim"]["lr"],
        "lr_scheduler_type": "constant",
        "adam_beta1": ours.beta1,
        "adam_beta2": ours.beta2,
        "weight_decay": ours.weight_decay,
        "max_grad_norm": ours.grad_clip,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _dpo(model: Any, settings: dict[str, Any], side: str) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from trainer.config import run_config
    from trainer.stages.pair_stage import pair_data, tokenizer_of

    config = run_config(settings, source="bench")
    pairs = pair_data(config, tokenizer_of(config)).train
    begins = [int(pair.chosen.is_trained.argmax()) for pair in pairs]
    columns = {
        "prompt": [pair.chosen.ids[:begin].tolist() for pair, begin in zip(pairs, begins, strict=True)],
        "chosen": [pair.chosen.ids[begin:].tolist() for pair, begin in zip(pairs, begins, strict=True)],
        "rejected": [pair.rejected.ids[begin:].tolist() for pair, begin in zip(pairs, begins, strict=True)],
    }
    arguments = DPOConfig(
        **_arguments(settings, len(pairs)), precompute_ref_log_probs=side == "trl", max_length=config.seq_len + 1
    )
    data = Dataset.from_dict({f"{name}_ids": ids for name, ids in columns.items()})
    return _prepared(DPOTrainer)(model, args=arguments, train_dataset=data, processing_class=_tokenizer())


def _sft(model: Any, settings: dict[str, Any], side: str) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from trainer.chats.dataset import load_chats
    from trainer.chats.rows import read_rows
    from trainer.config import run_config
    from trainer.stages.pair_stage import tokenizer_of

    config = run_config(settings, source="bench")
    found = load_chats(
        read_rows(config.data), tokenizer_of(config), "transcript", seq_len=config.seq_len, val_fraction=0.01
    ).train
    columns = {
        "input_ids": [each.ids.tolist() for each in found],
        "completion_mask": [each.is_trained.astype(int).tolist() for each in found],
    }
    arguments = SFTConfig(**_arguments(settings, len(found)), completion_only_loss=True, max_length=config.seq_len + 1)
    data = Dataset.from_dict(columns)
    return SFTTrainer(model, args=arguments, train_dataset=data, processing_class=_tokenizer())


def _grpo(model: Any, settings: dict[str, Any], side: str) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from trainer.chats.rows import read_rows
    from trainer.config import run_config
    from trainer.rollouts.prompts import load_prompts
    from trainer.stages.pair_stage import tokenizer_of

    config = run_config(settings, source="bench")
    tokenizer = tokenizer_of(config)
    prompts = load_prompts(
        read_rows(config.data), tokenizer, "transcript", longest=config.seq_len, val_fraction=0.01
    ).train
    data = Dataset.from_dict({"prompt": [tokenizer.decode(prompt.ids) for prompt in prompts]})
    names: dict[str, Any] = {}
    exec((Path(settings["reward"]["functions"][0]["use"].split(":")[0])).read_text(), names)

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [names["letters"](completion) for completion in completions]

    arguments = GRPOConfig(
        **_arguments(settings, len(prompts) * rows.GROUP),
        num_generations=rows.GROUP,
        max_completion_length=rows.COMPLETION,
        shuffle_dataset=False,
    )
    return GRPOTrainer(model, reward, args=arguments, train_dataset=data, processing_class=_tokenizer())


def _prepared(trainer: Any) -> Any:
    """The trainer for rows that are ids already."""

    class Prepared(trainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    return Prepared


def _tokenizer() -> Any:
    """A letter, a token; the ids of our bytes."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    found = Tokenizer(models.WordLevel({chr(i): i for i in range(256)} | {"<end>": 256}, unk_token="?"))
    found.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    found.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token="<end>", pad_token="<end>")
