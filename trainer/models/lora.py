"""LoRA by PEFT on a policy of any kind: its weights frozen, small matrices beside its linear layers that learn.

Such a policy's state dict is its adapters alone, in the names of `trainer.checkpoints.adapters`: that is what a
checkpoint holds. The head is never adapted: losses take its weight as it is, and would go past an adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from trainer.checkpoints.adapters import AdapterNote, base_sha256, is_of_adapter
from trainer.config.adapters import LoraConfig
from trainer.errors import EngineError
from trainer.models.hf_policy import PREFIX, TransformersPolicy
from trainer.models.language_model import LanguageModel

_NAME = "default"
"""What PEFT calls the one adapter there is."""


def add_lora(policy: LanguageModel, config: LoraConfig, init_from: str, sha256: str = "") -> None:
    """Freeze the policy, whose weights are in place, and put adapters beside its layers; they begin as nothing.

    `sha256`: of its whole weights, where it has them in fewer bits. Draws from torch's global generator. Raises
    EngineError.
    """
    layers = _layers(policy, config)
    sha256 = sha256 or base_sha256(policy.state_dict())
    policy.requires_grad_(False)
    from peft import inject_adapter_in_model  # late: seven seconds, for those who adapt

    settings = _settings(policy, config, layers, init_from)
    # In a box, because PEFT would read the policy's own `config` as if transformers had written it.
    box: Any = nn.ModuleDict({"policy": policy})
    box.is_loaded_in_4bit = config.quantize == "4bit"  # by which PEFT chooses the layer that multiplies four bits
    inject_adapter_in_model(settings, box, adapter_name=_NAME)
    note = AdapterNote(_plain(settings), sha256, PREFIX if isinstance(policy, TransformersPolicy) else "")
    adapted: Any = policy  # nn.Module takes every attribute for a tensor or a module, and leaves its hooks untyped
    adapted.lora = note
    adapted.register_state_dict_post_hook(_adapters_alone)
    adapted.register_load_state_dict_pre_hook(_adapters_beside_the_base)


@contextmanager
def without_adapters(policy: nn.Module) -> Iterator[nn.Module]:
    """The base of an adapted policy: inside, its adapters are off; afterwards they are on, and learn as before."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    assert layers, "a policy without adapters"
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield policy
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _plain(settings: Any) -> dict[str, Any]:
    """adapter_config.json."""
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.to_dict().items()}
    return {**plain, "peft_type": "LORA", "inference_mode": True}


def _settings(policy: LanguageModel, config: LoraConfig, layers: Mapping[str, nn.Module], init_from: str) -> Any:
    from peft import LoraConfig as PeftLora

    theirs = isinstance(policy, TransformersPolicy)
    alpha: Any = config.scale * config.rank  # PEFT divides it by the rank, and takes any number
    return PeftLora(
        r=config.rank,
        lora_alpha=alpha,
        lora_dropout=config.dropout,
        target_modules=sorted(name.removeprefix(PREFIX) for name in layers),
        # GPT-2 of transformers keeps its matrices transposed.
        fan_in_fan_out=any(not isinstance(layer, nn.Linear) for layer in layers.values()),
        task_type="CAUSAL_LM" if theirs else None,
        base_model_name_or_path=init_from.removeprefix("hf:"),
    )


def _layers(policy: LanguageModel, config: LoraConfig) -> dict[str, nn.Module]:
    """The layers to adapt, by name. Raises EngineError for a target that is none of them."""
    able = {
        name: module
        for name, module in policy.named_modules()
        if _is_linear(module) and getattr(module, "weight", None) is not policy.head_weight
    }
    for target in config.targets:
        if not any(_ends_with(name, target) for name in able):
            ends = sorted({name.rpartition(".")[2] for name in able})
            error = EngineError(
                f"`lora.targets` has `{target}`, and no linear layer is called so",
                why="the head is none of them: the loss takes its weight as it is" if "head" in target else "",
                hint=f"there are {', '.join(ends)}",
            )
            error.on_every_rank = True
            raise error
    wanted = config.targets
    return {
        name: module for name, module in able.items() if not wanted or any(_ends_with(name, each) for each in wanted)
    }


def _is_linear(module: nn.Module) -> bool:
    # Conv1D is what transformers calls GPT-2's linear layer.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _adapters_alone(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """Keep what learns, by PEFT's names, in which its one adapter has no name of its own, and a further head."""
    for name in list(state):
        tensor = state.pop(name)
        if is_of_adapter(name) or name.startswith(f"{prefix}value_head."):
            state[name.replace(f".{_NAME}.", ".")] = tensor


def _adapters_beside_the_base(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Give the names back, and leave the base as it is."""
    held = dict(module.named_parameters(remove_duplicate=False)) | _saved_buffers(module)
    for name in list(state):
        if is_of_adapter(name):
            layer, _dot, end = name.rpartition(".")
            state[f"{layer}.{_NAME}.{end}"] = state.pop(name)
    for name, tensor in held.items():
        if not is_of_adapter(name) and not name.startswith("value_head."):
            state.setdefault(prefix + name, tensor.detach())


def _saved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Those that belong to a state dict; tables of rotary positions do not."""
    return {
        f"{place}.{name}" if place else name: tensor
        for place, inner in module.named_modules()
        for name, tensor in inner.named_buffers(recurse=False)
        if name not in inner._non_persistent_buffers_set
    }
