"""Any causal LM of transformers as a policy: its own network inside, the forward of every other network here outside.

Its hidden states go through the sliced losses of this package wherever the head is one matrix, so that no whole logits
are made; where a network does more with them (a bias, a cap, a scale), the logits are asked for and used as they are.
Dropout is what the configuration says, whatever the folder did. It refuses to know where weights come from.
"""

# B = sequences, T = tokens, D = d_model, S = tokens seen so far, V = vocabulary

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.model import ModelConfig
from trainer.errors import EngineError
from trainer.models.attention import document_mask, document_positions
from trainer.models.cache import KVCache
from trainer.models.language_model import GPTOutput, LanguageModel
from trainer.models.loss import IGNORE_INDEX

PREFIX = "network."
"""Before every name that transformers gives a tensor."""

_CHANGES_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier")
"""Settings by which logits are more than the head times the hidden states: Gemma 2, Cohere, Granite."""


class TransformersPolicy(LanguageModel):
    """A causal LM that `ModelConfig.transformers` describes; its weights are drawn as transformers draws them."""

    def __init__(self, config: ModelConfig, network: Any = None) -> None:
        """`network`: one that transformers has loaded already, instead of a new one."""
        nn.Module.__init__(self)  # the parts that LanguageModel would make are in the network
        self.config = config
        self.head = self.value_head = None
        self.network = _network(config) if network is None else network
        self._head_is_a_matrix = _head_is_a_matrix(self.network, config.transformers)
        parameters = inspect.signature(self._body.forward).parameters
        self._takes_positions = "position_ids" in parameters
        hooks: Any = self  # torch leaves these untyped
        hooks.register_state_dict_post_hook(_without_tied_copies)
        hooks.register_load_state_dict_pre_hook(_with_tied_copies)

    @property
    def head_weight(self) -> Tensor:
        return cast(Tensor, self.network.get_output_embeddings().weight)

    def forward(
        self,
        ids_BT: Tensor,
        labels_BT: Tensor | None = None,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
        last_only: bool = False,
        per_token: bool = False,
        temperature: float = 1.0,
        num_labels: int | None = None,
    ) -> GPTOutput:
        if self._head_is_a_matrix:
            return super().forward(
                ids_BT,
                labels_BT,
                positions_BT=positions_BT,
                documents_BT=documents_BT,
                cache=cache,
                last_only=last_only,
                per_token=per_token,
                temperature=temperature,
                num_labels=num_labels,
            )
        found = self.network(
            **self._asked(ids_BT, positions_BT, documents_BT, cache), output_hidden_states=self.value_head is not None
        )
        if labels_BT is None:
            return GPTOutput(logits=found.logits[:, -1:] if last_only else found.logits)
        logits_BVT = found.logits.float().transpose(1, 2) / (temperature if per_token else 1.0)
        losses_BT = F.cross_entropy(logits_BVT, labels_BT, reduction="none", ignore_index=IGNORE_INDEX)
        if not per_token:
            return GPTOutput(loss_sum=losses_BT.sum())
        head = self.value_head
        values_BT = None if head is None else head(found.hidden_states[-1]).squeeze(-1).float()
        return GPTOutput(logps=-losses_BT, values=values_BT)

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        found = self._body(**self._asked(ids_BT, positions_BT, documents_BT, cache))
        return cast(Tensor, found.last_hidden_state)

    def new_cache(self) -> KVCache:
        """For as many rows as the first forward with it has."""
        return TransformersCache()

    @property
    def _body(self) -> nn.Module:
        return cast(nn.Module, self.network.base_model)

    def _asked(
        self, ids_BT: Tensor, positions_BT: Tensor | None, documents_BT: Tensor | None, cache: KVCache | None
    ) -> dict[str, Any]:
        """What the network is called with. Its own default positions would count padding, or forget the cache."""
        start = cache.length if cache is not None else 0
        asked: dict[str, Any] = {"input_ids": ids_BT, "use_cache": cache is not None}
        if documents_BT is not None:
            self._require_documents()
            asked["attention_mask"] = self._mask(document_mask(documents_BT))
            positions_BT = document_positions(documents_BT) if positions_BT is None else positions_BT
        if positions_BT is None:
            positions_BT = torch.arange(start, start + ids_BT.shape[1], device=ids_BT.device)
        if self._takes_positions:
            asked["position_ids"] = positions_BT.expand(ids_BT.shape)
        if cache is not None:
            assert isinstance(cache, TransformersCache)
            asked["past_key_values"] = cache.layers
            cache.length = start + ids_BT.shape[1]
        return asked

    def _mask(self, mask_B1TT: Tensor) -> Tensor:
        """SDPA takes true for what is seen; the plain attention of transformers adds."""
        if self.network.config._attn_implementation == "sdpa":
            return mask_B1TT
        dtype = self.network.dtype
        return torch.zeros(mask_B1TT.shape, dtype=dtype, device=mask_B1TT.device).masked_fill(
            ~mask_B1TT, torch.finfo(dtype).min
        )

    @property
    def keeps_documents_apart(self) -> bool:  # type: ignore[override]
        """A mask of our own would replace a window, and a recurrent layer has none."""
        settings = self.config.transformers
        kinds = set(settings.get("layer_types") or ["full_attention"])
        windowed = settings.get("sliding_window") and settings.get("use_sliding_window", True)
        return kinds <= {"full_attention"} and not windowed and self._takes_positions

    def _require_documents(self) -> None:
        """Raises EngineError."""
        if self.keeps_documents_apart:
            return
        error = EngineError(
            f"documents in one row cannot be kept apart in a `{self.config.transformers.get('model_type')}`",
            why="its attention is not a plain causal one, which is what a mask of documents would make of it",
            hint="sft.packing=false",
        )
        error.on_every_rank = True
        raise error


class TransformersCache(KVCache):
    """What a network of transformers keeps of the tokens seen so far."""

    def __init__(self) -> None:
        self.length = 0
        self.layers = _dynamic_cache()

    def clear(self) -> None:
        self.length = 0
        self.layers = _dynamic_cache()

    def keep(self, rows_B: Tensor) -> None:
        self.layers.batch_select_indices(rows_B)


def of_transformers_names(state: Mapping[str, Tensor], policy_names: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict as transformers names it, for a policy with these names: tied copies left out."""
    return {PREFIX + name: tensor for name, tensor in state.items() if PREFIX + name in policy_names}


def without_dropout(settings: Mapping[str, Any], dropout: float) -> dict[str, Any]:
    """The settings with every rate of dropout the same."""
    return {
        key: dropout if ("dropout" in key or key.endswith("_pdrop")) and isinstance(value, (int, float)) else value
        for key, value in settings.items()
    }


def settings_of(config: ModelConfig) -> Any:
    """The configuration as transformers has it, with the dropout of `config`. Raises whatever transformers raises."""
    from transformers import AutoConfig  # late: seconds, for those who have such a policy

    settings = without_dropout(config.transformers, config.dropout)
    theirs = AutoConfig.for_model(settings.pop("model_type", None), **settings)
    for key in [key for key in vars(theirs) if key.endswith("_pdrop") or "dropout" in key]:
        if isinstance(getattr(theirs, key), float):  # what the file leaves out has a default that is not zero
            setattr(theirs, key, config.dropout)
    return theirs


def _network(config: ModelConfig) -> Any:
    from transformers import AutoModelForCausalLM  # late: seconds, for those who have such a policy

    if config.backend == "unsloth":
        return _unsloth_network(config)
    try:
        return AutoModelForCausalLM.from_config(settings_of(config), dtype=torch.float32)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        kind = config.transformers.get("model_type")
        raise EngineError(
            f"transformers has no causal language model of the kind `{kind}` that can be built",
            why=" ".join(str(error).split())[:300],
            hint="pip install -U transformers, or take another policy",
        ) from error


def require_unsloth() -> None:
    """Raises EngineError where Unsloth cannot run."""
    hint = "model.backend=transformers"
    if not torch.cuda.is_available():
        error = EngineError("`model.backend=unsloth` needs a GPU", why="there is none here", hint=hint)
    elif importlib.util.find_spec("unsloth") is None:
        why, hint = "it is not installed", f"pip install unsloth, or {hint}"
        error = EngineError("`model.backend=unsloth` needs the package unsloth", why=why, hint=hint)
    else:
        return
    error.on_every_rank = True
    raise error


def _unsloth_network(config: ModelConfig) -> Any:
    """The same network with Unsloth's kernels, which nobody has measured here. Raises EngineError where those cannot
    run."""
    require_unsloth()
    # Late: an extra of its own, and it changes transformers when it is imported.
    from unsloth import FastLanguageModel  # type: ignore[import-not-found]

    source = config.init_from.removeprefix("hf:")
    return FastLanguageModel.from_pretrained(
        source, max_seq_length=config.max_seq_len, dtype=torch.float32, load_in_4bit=False
    )[0]


def _head_is_a_matrix(network: Any, settings: Mapping[str, Any]) -> bool:
    """Whether logits are the last hidden states times the head's weight, and nothing else."""
    head = network.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        return False
    if any(settings.get(key) not in (None, 1, 1.0) for key in _CHANGES_LOGITS) or head.weight.is_meta:
        return False
    ids_BT = torch.arange(4, device=head.weight.device)[None] % head.weight.shape[0]
    was_training = network.training
    network.eval()
    with torch.no_grad():
        found = network.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        logits = network(input_ids=ids_BT, use_cache=False).logits
        same = torch.allclose(F.linear(found, head.weight), logits, rtol=1e-4, atol=1e-6)
    network.train(was_training)
    return same


def _dynamic_cache() -> Any:
    from transformers import DynamicCache  # late: only for those who sample from such a policy

    return DynamicCache()


def _without_tied_copies(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """One tensor, one name: a tied head is not written twice."""
    own = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    for name in [name for name in state if name.startswith(prefix) and name.removeprefix(prefix) not in own]:
        del state[name]


def _with_tied_copies(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The other way: each further name of a tensor gets what its first name gets."""
    first: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in first and prefix + first[id(parameter)] in state:
            state.setdefault(prefix + name, state[prefix + first[id(parameter)]])
        first.setdefault(id(parameter), name)
