"""jobs.yaml, typed: what the user wrote, as JobSpecs that can be trusted.

The annotated example at the root of the repository is the documentation of this
format; `gptops schema` prints it for editors. Reading the file is
launcher.spec.jobs_file; nothing here touches a disk or a host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    WithJsonSchema,
    model_validator,
)

from launcher.errors import JobsError
from launcher.spec.defaults import DEFAULT_DISK_GIB, DEFAULT_IMAGE, DEFAULT_MIN_RELIABILITY
from launcher.spec.notify import NotifySpec
from launcher.spec.slurm import SlurmSpec
from launcher.spec.together import INSTEAD, WHY_ALONE
from trainer.config import ACCEPTED_STAGES, Model, Strings

Stage = Literal["pretrain", "sft", "dpo", "orpo", "ppo", "grpo", "rgpo"]
ProviderName = Literal["local", "ssh", "vast", "runpod", "lambda_cloud"]

ACCEPTED_PROVIDERS = ("local", "ssh", "vast", "runpod", "lambda_cloud")
"""The providers this version can open a machine with."""

_SHORTEST_PAID_RUN_HOURS = 0.1
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(r"(?:^|_)(?:TOKEN|KEY|SECRET|PASS|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("is not a variable name: letters, digits and `_`, not starting with a digit")
    if name.startswith("GPTOPS_"):
        raise ValueError("is gptops' own: names that start with GPTOPS_ are taken")
    if _SECRET_NAME.search(name):  # and the value is not repeated
        raise ValueError(f"looks like a secret: write `secrets: [{name}]` and export {name} in your shell instead")
    return name


def _variable_value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        raise ValueError(f"`{shown}` is neither text nor a number; quote it to make it text")
    if "\0" in str(value):
        raise ValueError("holds a NUL character, which no environment can")
    return str(value)


def _secret_names(value: Any) -> Any:
    """A list of names; the message never repeats an entry that may be a value."""
    names_only = "give names only; each value is taken from your own environment when the run starts"
    if isinstance(value, Mapping):
        raise ValueError(f"has values: {names_only}: [{', '.join(str(name) for name in value)}]")
    if isinstance(value, (list, tuple)):
        for position, name in enumerate(value, start=1):
            if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
                raise ValueError(f"entry {position} is not the name of a variable: {names_only}")
    return value


def _train_form(value: Any) -> Any:
    if not isinstance(value, (str, Mapping)):
        raise ValueError(f"`{value}` is neither a mapping nor the path of a YAML file")
    return value


VariableValue = Annotated[str, BeforeValidator(_variable_value), WithJsonSchema({"type": ["string", "number"]})]
Environment = dict[Annotated[str, AfterValidator(_variable)], VariableValue]
SecretNames = Annotated[Strings, BeforeValidator(_secret_names)]
Train = Annotated[Any, BeforeValidator(_train_form), WithJsonSchema({"type": ["object", "string"]})]


class Resources(Model):
    """The machine a job wants."""

    gpus: NonNegativeInt = 0
    """GPUs on each node; 0 trains on the CPU."""
    gpu_names: Strings = ()
    """Any of these models, as `nvidia-smi` spells them in part: [H100, A100]. Empty: any."""
    nodes: PositiveInt = 1
    """Machines that train together: of one entry under `groups`, or rented, of one cluster."""
    rendezvous_port: int | None = Field(None, ge=1024, le=65535)
    """With several nodes: where they meet on the first of them; none: a free port."""
    disk_gib: PositiveInt = DEFAULT_DISK_GIB
    """Free disk the run needs."""
    max_price_per_hour: PositiveFloat | None = None
    """US dollars an hour for the whole machine; none: no limit."""
    min_reliability: float = Field(DEFAULT_MIN_RELIABILITY, ge=0.0, le=1.0)
    """The provider's own figure for hosts on a market."""
    regions: Strings = ()
    """Any of these places, by whole words of the provider's own name for them: [US, EU-RO]. Empty: anywhere."""
    spot: bool = False
    """Take an interruptible machine: cheaper, and taken away when somebody bids more."""
    bid: PositiveFloat | None = None
    """With spot: US dollars an hour for the machine without its disk, at most; none: a little above the lowest bid."""

    @model_validator(mode="after")
    def _a_bid_is_for_spot(self) -> Resources:
        if self.bid is not None and not self.spot:
            raise ValueError(f"bid {self.bid:g} goes with `spot: true`")
        return self


class SyncPolicy(Model):
    """How checkpoints come home."""

    every_seconds: PositiveInt = 60
    """Pause between two looks at the remote checkpoint folder."""
    delete_remote: bool = True
    """Delete a checkpoint on the host once it is verified at home."""
    keep_remote: int = Field(2, ge=2)
    """Newest checkpoints never deleted on the host while the run lives. At least 2."""


class Budget(Model):
    """Limits of one job: what it may cost, and when a machine is nobody's any more."""

    max_hours: PositiveFloat | None = None
    """Hours from the run's start; then it is stopped, with time to save, by its own host."""
    max_usd: PositiveFloat | None = None
    """US dollars in all, disk and bandwidth included. Asked before renting, at each look, and kept by the machine."""
    max_usd_per_hour: PositiveFloat | None = None
    """US dollars an hour for all machines that gptops has open at the provider, forgotten ones included."""
    idle_minutes: NonNegativeInt = 30
    """A rented machine ends itself when nothing ran on it and nobody came for so long; 0: not before its deadline."""


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
    """Who logs in."""
    port: int = Field(22, ge=1, le=65535)
    """Port of its sshd."""
    identity_file: str | None = None
    """Your private key for it; none: gptops' own key, shown by `gptops doctor`."""
    gpus: NonNegativeInt = 0
    """GPUs it has."""
    gpu_name: str = ""
    """Their model, as `nvidia-smi` spells it."""
    inside: str | None = Field(None, pattern=r"^[A-Za-z0-9_.:-]+$")
    """Name or address at which the other machines of its group reach it; none: `host`."""
    scheduler: Literal["slurm"] | None = None
    """Who starts what is trained, where it is not this machine itself: `slurm` on a cluster's login node."""
    slurm: SlurmSpec = SlurmSpec()
    """With `scheduler: slurm`: what the cluster wants to be told with every job."""

    @model_validator(mode="after")
    def _nothing_ssh_would_take_for_an_option(self) -> HostSpec:
        for name in ("host", "user"):
            value = getattr(self, name)
            if not re.fullmatch(r"[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]*", value):
                brackets = "; an IPv6 address stands without brackets here" if value.startswith("[") else ""
                raise ValueError(f"{name} `{value}` is not the name of a {name}{brackets}")
        if self.slurm != SlurmSpec() and self.scheduler is None:
            raise ValueError("`slurm` goes with `scheduler: slurm`")
        return self


class JobSpec(Model):
    """One job, resolved: `defaults` and the job's own keys laid over each other."""

    stage: Stage
    """What is trained: pretrain, sft, dpo, …"""
    provider: ProviderName = "local"
    """Who gives the machine."""
    host: str | None = None
    """With provider `ssh`: the name of an entry under `hosts`; with several nodes, of one under `groups`."""
    resources: Resources = Resources()
    """The machine."""
    image: str = Field(DEFAULT_IMAGE, pattern=r"^[^\s-]\S*$")
    """Container image on clouds that take one. Its torch is reused."""
    launcher: Literal["torchrun", "accelerate"] = "torchrun"
    """Who starts the processes."""
    processes: PositiveInt | None = None
    """Training processes per node; none: one per GPU, or one on a CPU."""
    train: Train = Field(default_factory=dict)
    """The training configuration: inline, or the path of a YAML file, relative to jobs.yaml."""
    env: Environment = Field(default_factory=dict)
    """Environment of the run: text or numbers."""
    secrets: SecretNames = ()
    """Names of variables of your own environment that the run gets too. Never their values."""
    sync: SyncPolicy = SyncPolicy()
    """How checkpoints come home."""
    budget: Budget = Budget()
    """When it has cost enough."""
    on_finish: Literal["destroy", "keep"] = "destroy"
    """What `gptops run` does with the machine when everything is home."""
    max_restarts: NonNegativeInt = 3
    """How often `gptops run` starts a crashed training again. The same failure twice at one step ends it earlier."""
    notify: NotifySpec = NotifySpec()
    """Who is told by `gptops run`."""
    setup: SetupSpec = SetupSpec()
    """What the host needs besides the trainer."""

    @model_validator(mode="after")
    def _makes_sense(self) -> JobSpec:
        if self.host is not None and self.provider != "ssh":
            raise ValueError(f"host `{self.host}` goes with `provider: ssh`, not with `{self.provider}`")
        if both := set(self.env) & set(self.secrets):
            raise ValueError(f"`{min(both)}` stands in env and in secrets; choose one")
        on_cpu = self.resources.gpus == 0
        if on_cpu and self.launcher == "accelerate" and (self.processes or 1) > 1:
            # accelerate 1.15 starts one process on a CPU, whatever it is told, and says nothing.
            raise ValueError(
                f"accelerate would not start {self.processes} processes on a CPU; use `launcher: torchrun`"
            )
        if self.resources.nodes > 1 and self.launcher != "torchrun":
            raise ValueError(f"{self.resources.nodes} nodes meet by torchrun: leave `launcher: {self.launcher}` out")
        self._refuse_a_budget_that_buys_nothing()
        return self

    def _refuse_a_budget_that_buys_nothing(self) -> None:
        price, usd = self.resources.max_price_per_hour, self.budget.max_usd
        if price and usd and usd < price * _SHORTEST_PAID_RUN_HOURS:
            raise ValueError(
                f"budget.max_usd {usd:g} buys {usd / price * 60:.1f} minutes at resources.max_price_per_hour {price:g}"
            )

    @property
    def processes_per_node(self) -> int:
        """What `processes` means where it is left out."""
        return self.processes or self.resources.gpus or 1

    @property
    def refusals(self) -> tuple[tuple[str, str], ...]:
        """What this version cannot do yet: key and reason."""
        found = []
        if self.stage not in ACCEPTED_STAGES:
            found.append(("stage", f"`{self.stage}` is not in this version, which has: {', '.join(ACCEPTED_STAGES)}"))
        if self.provider not in ACCEPTED_PROVIDERS:
            have = ", ".join(ACCEPTED_PROVIDERS)
            found.append(("provider", f"`{self.provider}` is not in this version, which has: {have}"))
        if self.resources.nodes > 1 and self.provider in WHY_ALONE:
            reason = f"{self.resources.nodes} at `{self.provider}`: {WHY_ALONE[self.provider]}; instead: {INSTEAD}"
            found.append(("resources.nodes", reason))
        return tuple(found)


def require_supported(job: JobSpec, job_name: str, source: str = "jobs.yaml") -> None:
    """Raises JobsError where the job is valid but asks for what this version does not have yet."""
    lines = [f"{source}: jobs.{job_name}.{key}: {reason}" for key, reason in job.refusals]
    if lines:
        raise JobsError("\n".join(lines), why="the job is valid, but a later version runs it", hint="gptops check")
