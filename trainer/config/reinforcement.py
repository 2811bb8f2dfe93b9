"""What reinforcement learning is told: rewards, rollouts, and the three algorithms, as a configuration says it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from trainer.config.strict import Model


class RewardFunction(Model):
    """One reward function."""

    use: str = Field(min_length=1)
    """`exact_match`, `length`, `regex`, `tool_call`, `path/to/file.py:function`, `model:RUN` for a model of the stage
    `reward`, or `model:hf:FOLDER_OR_ID` for a sequence classifier of transformers with one label."""
    weight: float = 1.0
    """What its value is multiplied by; may be negative."""
    options: dict[str, Any] = Field({})
    """Passed to it by name, beside the prompt, the completion and the row's columns."""

    @field_validator("use")
    @classmethod
    def _is_known(cls, use: str) -> str:
        if ":" not in use and use not in ("exact_match", "length", "regex", "tool_call"):
            raise ValueError(f"`{use}` is none of exact_match, length, regex, tool_call, and no `file.py:function`")
        if use in ("model:", "model:hf:"):
            raise ValueError(f"`{use}` names no reward model: `model:RUN` or `model:hf:FOLDER_OR_ID`")
        return use

    @property
    def model(self) -> str:
        """The reward model it names, or ""."""
        return self.use.removeprefix("model:") if self.use.startswith("model:") else ""


class RewardConfig(Model):
    """How good a completion is."""

    functions: Annotated[tuple[RewardFunction, ...], Field(strict=False)] = ()
    """`[{use: exact_match}, {use: "rewards.py:polite", weight: 0.5}]`; their weighted values are summed."""
    timeout_seconds: PositiveFloat = 5.0
    """A call that takes longer counts as None."""
    cut_penalty: NonNegativeFloat = 0.0
    """Taken from the reward of a completion that ends at `rollout.max_tokens` instead of by itself."""


class RolloutConfig(Model):
    """How completions are sampled from the policy. Always from the whole distribution: no top-k, no top-p."""

    max_tokens: PositiveInt = 128
    """Longest completion; prompt and completion together fit into `data.seq_len`."""
    temperature: PositiveFloat = 1.0
    """Divides the logits, in the rollout as in the loss."""
    completions: PositiveInt | None = None
    """Completions of one rollout over all GPUs. Left out, `train.global_batch_size`: one step per rollout."""
    micro_batch_size: PositiveInt = 64
    """Completions sampled side by side on one GPU."""
    max_turns: PositiveInt = 1
    """Answers of the assistant in one completion: with tools, one more than results it gets to see."""
    tools: dict[str, str] = Field({})
    """Functions that the policy may call while it answers, by name: `{add: "tools.py:add"}`."""
    tool_timeout_seconds: PositiveFloat = 5.0
    """A call of a tool that takes longer is answered with an error."""
    patience: PositiveInt = 20
    """The run ends where none of so many first rollouts holds anything to learn: all rewards are equal."""


class GrpoConfig(Model):
    """Group relative policy optimisation."""

    group_size: int = Field(8, ge=2)
    """Completions of one prompt, compared with each other."""
    advantage: Literal["std", "mean"] = "std"
    """`std`: reward less the group's mean, by its standard deviation; `mean`: less the mean alone (Dr. GRPO)."""
    loss: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    """`dapo`: mean over all tokens of the step; `grpo`: over the means of the completions; `dr_grpo`: over completions,
    each a sum of tokens by `rollout.max_tokens`."""
    epochs: PositiveInt = 1
    """How often a rollout is gone through."""
    clip_low: PositiveFloat = Field(0.2, lt=1.0)
    """How far the ratio to the sampling policy may fall, where a rollout serves more than one step."""
    clip_high: PositiveFloat = 0.2
    """How far it may rise."""
    beta: NonNegativeFloat = 0.0
    """Weight of the KL term to the reference, `model.init_from`; with 0 no reference is loaded."""


class RgpoConfig(Model):
    """Reward-guided policy optimisation: REINFORCE with a running mean as its baseline."""

    baseline_decay: float = Field(0.9, ge=0.0, lt=1.0)
    """Share that the running mean of the rewards keeps at each rollout."""
    beta: NonNegativeFloat = 0.0
    """Weight of the KL term to the reference, `model.init_from`; with 0 no reference is loaded."""


class PpoConfig(Model):
    """Proximal policy optimisation, with a value head on the policy."""

    epochs: PositiveInt = 4
    """How often a rollout is gone through, in minibatches of `train.global_batch_size`."""
    clip_eps: PositiveFloat = Field(0.2, lt=1.0)
    """How far the ratio to the sampling policy may move."""
    value_clip: PositiveFloat = 0.2
    """How far a value may move from the one at sampling before its gradient ends."""
    value_weight: NonNegativeFloat = 0.1
    """Weight of the value loss beside the policy's."""
    gamma: float = Field(1.0, gt=0.0, le=1.0)
    """What a reward is worth one token earlier."""
    gae_lambda: float = Field(0.95, ge=0.0, le=1.0)
    """How far advantages look ahead: 1 trusts the rewards alone, 0 the value head (Schulman et al. 2016)."""
    whiten: bool = True
    """Give the advantages of a rollout mean 0 and variance 1."""
    beta: NonNegativeFloat = 0.0
    """Weight of the KL penalty in the reward of each token; with 0 no reference (`model.init_from`) is loaded."""
    kl: Literal["fixed", "adaptive"] = "fixed"
    """`adaptive`: `beta` follows the KL measured so that it comes to `kl_target` (Ziegler et al. 2019)."""
    kl_target: PositiveFloat = 6.0
    """`adaptive`: nats per completion."""
    kl_horizon: PositiveInt = 10_000
    """`adaptive`: completions in which `beta` follows."""
    stop_kl: PositiveFloat | None = None
    """A rollout is left as soon as the policy has moved so many nats per token from the one that sampled it."""
