"""From which checkpoint a run goes on, and whether it may.

Walks from the newest published checkpoint to the oldest, reads every byte, and says which broken ones it passed by
and why. A broken one is set aside under a name no reader takes for a checkpoint, never deleted. A setting that would
make the weights, the moments or the order of the data mean something else is refused, field by field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer import manifest
from trainer.checkpoints.checkpoint import TrainState, read_config
from trainer.checkpoints.keeping import sweep
from trainer.config import RunConfig
from trainer.console import Console
from trainer.errors import CheckpointError
from trainer.quoting import pasteable, shown

_FREE = (
    "preset",
    "out_dir",
    "resume",
    # The stage compares what the tokens are, which says more than where they lie.
    "data.path",
    "data.text_column",
    "data.template",
    "data.tokenizer.path",
    "model.preset",
    "model.dropout",
    "train.max_steps",
    "train.micro_batch_size",
    "train.precision",
    "train.device",
    "train.compile",
    "train.parallel",
    "train.activation_checkpointing",
    "train.max_skipped_steps",
    "train.peer_timeout_seconds",
    "optim",
    "schedule",
    "checkpoint",
    "eval",
    "sample",
    "log",
)
"""What may change when a run goes on; everything else, and whatever is added later, may not."""

_CHANGES_ROUNDING = (
    "train.micro_batch_size",
    "train.precision",
    "train.device",
    "train.compile",
    "train.parallel",
)


def checkpoint_to_resume(config: RunConfig, folder: Path, console: Console) -> Path | None:
    """The newest whole checkpoint in `folder`, as `config.resume` wants it; None to start afresh.

    Leaves in `folder` nothing half built and nothing newer. Raises CheckpointError where there is none and there must
    be, where there are some and there must not be, and where its settings are not those of `config`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        chosen = _chosen(config, folder, console)
        if chosen is not None:
            _require_compatible(chosen, config, console)
        _set_newer_aside(folder, chosen, console)
    except OSError as error:
        raise CheckpointError(f"cannot use {shown(folder)}", why=error.strerror or str(error)) from error
    return chosen


def require_stage(checkpoint: Path, state: TrainState, stage: str) -> None:
    """Refuse the checkpoint of another stage. Raises CheckpointError."""
    if state.stage != stage:
        raise CheckpointError(
            f"{shown(checkpoint)} is of a {state.stage} run, this one is {stage}",
            hint="start a new run: `out_dir=runs/another`",
        )


def _chosen(config: RunConfig, folder: Path, console: Console) -> Path | None:
    published = manifest.checkpoints(folder)
    if config.resume == "never" and published:
        raise CheckpointError(
            f"{shown(folder)} already holds checkpoints, the newest of step {manifest.step_of(published[-1].name)}",
            why="`resume=never` would mix two runs in one folder",
            hint="choose another folder with `out_dir=runs/another`, or go on with `resume=auto`",
        )
    whole = _newest_whole(published, console)
    if whole is None and published:
        raise CheckpointError(
            f"none of the {len(published)} checkpoints in {shown(folder)} is whole",
            why="each is named above with what is wrong with it; starting over would bury them",
            hint=f"bring a whole one back, or begin anew: `mv {pasteable(folder)} {pasteable(f'{folder}.broken')}`",
        )
    if whole is None and config.resume == "must":
        raise CheckpointError(
            f"there is no checkpoint to go on from in {shown(folder)}",
            why="`resume=must` was asked for",
            hint="look at `out_dir`, or start afresh with `resume=auto`",
        )
    return whole


def _newest_whole(published: list[Path], console: Console) -> Path | None:
    """The newest of them whose every byte is what was written; what is wrong with newer ones is said."""
    for checkpoint in reversed(published):
        try:
            manifest.verify(checkpoint)
            return checkpoint
        except manifest.BrokenCheckpoint as problem:
            console.say(f"skipped `{checkpoint.name}`: {problem}")
    return None


def _set_newer_aside(folder: Path, chosen: Path | None, console: Console) -> None:
    """Rename what is newer to `step_N.broken`, or `step_N.part` if it is one: the names will be needed again."""
    published = manifest.published(folder)
    for checkpoint in published[published.index(chosen) + 1 if chosen else 0 :]:
        aside = checkpoint.with_name(checkpoint.name + (".part" if manifest.is_part(checkpoint) else ".broken"))
        if aside.exists():  # broken twice at the same step: the first one has taught what it could
            manifest.remove(aside)
        checkpoint.rename(aside)
        console.say(f"set it aside as `{aside.name}`")


def _require_compatible(checkpoint: Path, config: RunConfig, console: Console) -> None:
    """Refuse a configuration the checkpoint does not fit, naming each field; say what changed and may."""
    old, new = flat(read_config(checkpoint)), flat(config.model_dump(mode="json"))
    changed = {key: (old[key], new[key]) for key in old if key in new and old[key] != new[key]}
    refused = [f"`{key}` was {was}, is {now}" for key, (was, now) in changed.items() if not _is_free(key)]
    if refused:
        raise CheckpointError(
            f"this run cannot go on from {shown(checkpoint)} with other settings",
            why="; ".join(refused),
            hint="put them back, or start a new run: `out_dir=runs/another`",
        )
    told = {key: values for key, values in changed.items() if key not in ("out_dir", "resume")}
    if told:
        console.say("changed since then: " + "; ".join(f"{key} {was} -> {now}" for key, (was, now) in told.items()))
    if any(key in told for key in _CHANGES_ROUNDING):
        console.say("other rounding from here on: this run is no longer bit for bit what one without a stop would be")


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in _FREE)


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """A configuration's leaves by their dotted keys."""
    return dict(_leaves(value, at))


def _leaves(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{at}.{key}" if at else str(key))
    else:
        yield at, value
