"""jobs.yaml, typed: what the user wrote, as JobSpecs that can be trusted.

The annotated example at the root of the repository is the documentation of this
format; `gptops schema` prints it for editors. Nothing here touches a host.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from trainer.config import Model, Strings

Stage = Literal["pretrain", "sft", "dpo", "orpo", "ppo", "grpo", "rgpo"]
ProviderName = Literal["local", "ssh", "vast", "runpod", "lambda_cloud"]


class Resources(Model):
    """The machine a job wants."""

    gpus: NonNegativeInt = 0
    """GPUs on each node; 0 trains on the CPU."""
    gpu_names: Strings = ()
    """Any of these models, as `nvidia-smi` spells them in part: [H100, A100]. Empty: any."""
    nodes: PositiveInt = 1
    """Machines."""
    disk_gib: PositiveInt = 20
    """Free disk the run needs."""
    max_price_per_hour: PositiveFloat | None = None
    """US dollars an hour for the whole machine; none: no limit."""
    min_reliability: float = Field(0.95, ge=0.0, le=1.0)
    """The provider's own figure for hosts on a market."""
    spot: bool = False
    """Take an interruptible machine."""


class SyncPolicy(Model):
    """How checkpoints come home."""

    every_seconds: PositiveInt = 60
    """Pause between two looks at the remote checkpoint folder."""
    delete_remote: bool = True
    """Delete a checkpoint on the host once it is verified at home."""
    keep_remote: int = Field(2, ge=2)
    """Newest checkpoints never deleted on the host while the run lives. At least 2."""


class Budget(Model):
    """Limits of one run in all."""

    max_hours: PositiveFloat | None = None
    max_usd: PositiveFloat | None = None


class SetupSpec(Model):
    """What the host needs besides the trainer."""

    pip: Strings = ()
    """Extra packages, as pip writes them: ["wandb==0.31.0"]."""
    shell: Strings = ()
    """Extra shell lines, run once after the packages, in the uploaded code."""


class HostSpec(Model):
    """A machine you own, for `provider: ssh`."""

    host: str = Field(min_length=1)
    """Name or address."""
    user: str = "root"
    port: int = Field(22, ge=1, le=65535)
    identity_file: str | None = None
    """Your private key for it; none: gptops' own key, shown by `gptops doctor`."""
    gpus: NonNegativeInt = 0
    gpu_name: str = ""


class JobSpec(Model):
    """One job, resolved: `defaults` and the job's own keys laid over each other."""

    stage: Stage
    """What is trained: pretrain, sft, dpo, …"""
    provider: ProviderName = "local"
    """Who gives the machine."""
    host: str | None = None
    """With provider `ssh`: the name of an entry under `hosts`."""
    resources: Resources = Resources()
    image: str = "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime"
    """Container image on clouds that take one. Its torch is reused."""
    launcher: Literal["torchrun", "accelerate"] = "torchrun"
    """Who starts the processes."""
    processes: PositiveInt | None = None
    """Training processes per node; none: one per GPU, or one on a CPU."""
    train: dict[str, Any] | str = Field(default_factory=dict)
    """The training configuration: inline, or the path of a YAML file beside jobs.yaml."""
    env: dict[str, str | int | float] = Field(default_factory=dict)
    """Environment of the run."""
    secrets: Strings = ()
    """Names of variables of your own environment that the run gets too. Never their values."""
    sync: SyncPolicy = SyncPolicy()
    budget: Budget = Budget()
    on_finish: Literal["destroy", "keep"] = "destroy"
    """What `gptops run` does with the machine when everything is home."""
    setup: SetupSpec = SetupSpec()
