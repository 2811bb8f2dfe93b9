"""A model of the hub, brought here: its configuration and its weights, nothing else."""

from __future__ import annotations

from pathlib import Path

from trainer.data.hub_errors import chain, endpoint
from trainer.errors import CheckpointError
from trainer.models.transformers_folder import CONFIG, WEIGHTS

_SECONDS = 30
"""For the hub to begin to answer."""


def downloaded(name: str, *, also: tuple[str, ...] = (), key: str = "model.init_from", weights: bool = True) -> Path:
    """The folder with the model `name` (`gpt2`, `owner/name`), cached if it was here before. Raises CheckpointError.

    `also`: further files that are wanted where there are such. `key`: the one of the configuration that names it.
    Without `weights`, nothing but those.
    """
    # Late: a start that begins with random weights does not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # stderr has lines, one at a time
    others, patterns = [CONFIG, *also], [*WEIGHTS[:2], "model-*.safetensors"] if weights else []
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*others, *patterns], etag_timeout=_SECONDS))
        if weights and not any((folder / file).is_file() for file in WEIGHTS[:2]):
            folder = Path(snapshot_download(name, allow_patterns=[*others, "pytorch_model*"], etag_timeout=_SECONDS))
        return folder
    except HFValidationError as error:
        raise CheckpointError(
            f"`{key}` is `{name}`: there is no such folder, and it is no name of the hub",
            why=str(error).splitlines()[0],
            hint="write a folder that exists here, or `owner/name`",
        ) from error
    except Exception as error:  # whatever the hub and the network below it raise is a refusal
        raise _refusal(name, error, key) from error


def _refusal(name: str, error: Exception, key: str) -> CheckpointError:
    kinds = {type(one).__name__ for one in chain(error)}
    why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    page = f"{endpoint()}/{name}"
    if "GatedRepoError" in kinds:
        hint = f"accept its terms at {page}, then set HF_TOKEN to a token of yours (hf.co/settings/tokens)"
        return CheckpointError(f"the model `{name}` is gated", why=why, hint=hint)
    if "RepositoryNotFoundError" in kinds:
        hint = f"look at {page}, or write a folder that exists here"
        return CheckpointError(f"there is no folder `{name}` here, and no such model on the hub", why=why, hint=hint)
    hint = f"look at the network and at HF_ENDPOINT; or copy the model here and write its folder: `{key}=DIR`"
    return CheckpointError(f"the model `{name}` could not be brought from the hub", why=why, hint=hint)
