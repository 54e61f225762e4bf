"""What the code of transformers' models calls its modules and arguments: what our own forwards stand in for."""

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation, SiLUActivation
from transformers.pytorch_utils import Conv1D

from splitlearn.torch_private import own_modules

DECODER = frozenset({"embed_tokens", "layers", "norm", "rotary_emb"})
"""Children of a decoder."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Children of attention: to queries, keys and values, and back to the hidden size."""
HEAD_NORMS = ("q_norm", "k_norm")
"""Children of attention that norms the heads of queries and keys."""
GATED_MLP = frozenset({"gate_proj", "up_proj", "down_proj", "act_fn"})
"""Children of a gated unit."""
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("gate_proj", "up_proj"))
"""Children of one module that are called with the same tensor."""

SILU = (nn.SiLU, SiLUActivation)
# torch's own stays out: it may be the exact one, from which a few random rows might not tell the other
TANH_GELU = (GELUTanh, NewGELUActivation, FastGELUActivation)

_HIDDEN = "hidden_states"
# what a model's own code reads of a layer, other than calling it
_WEIGHT_READ = re.compile(r"\bself(?:\.\w+)*\.(\w+)\.weight\b")


def linear_weight(module: nn.Module) -> torch.Tensor | None:
    """The weight [N, K] of a linear layer; None for other modules, and for subclasses with a forward of their own."""
    if type(module) is nn.Linear:
        return module.weight
    if has_inputs_first(module):
        return torch.as_tensor(module.weight).t()
    return None


def has_inputs_first(module: nn.Module) -> bool:
    """Whether it is GPT-2's linear layer, which stores its weight as [K, N]."""
    return type(module) is Conv1D


def norm_epsilon(norm: nn.Module) -> float | None:
    """The epsilon of a root mean square norm; None where `norm` is none, or says no epsilon."""
    if not type(norm).__name__.endswith("RMSNorm"):
        return None
    named = (getattr(norm, name, None) for name in ("variance_epsilon", "eps"))
    return next((value for value in named if isinstance(value, float)), None)


def weights_read(module: nn.Module) -> frozenset[str]:
    """Names of the attributes whose `weight` the source files of the module's classes read."""
    files = {type(each).__module__ for each in module.modules()}
    texts = (inspect.getsource(sys.modules[file]) for file in files if not file.startswith("torch."))
    return frozenset(name for text in texts for name in _WEIGHT_READ.findall(text))


def hidden_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The hidden states among the arguments of a layer, or of a module inside one."""
    return args[0] if args else kwargs.get(_HIDDEN)


def with_hidden(
    hidden_BTD: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a layer with other hidden states."""
    return ((hidden_BTD, *args[1:]), kwargs) if args else (args, {**kwargs, _HIDDEN: hidden_BTD})


def rotation_in(kwargs: Mapping[str, Any]) -> Any:
    """What the decoder tells a layer of the rows' positions; mostly cosines and sines [B, T, n]."""
    return kwargs.get("position_embeddings")


def mask_in(kwargs: Mapping[str, Any]) -> Any:
    """What the decoder gives a layer as its mask."""
    return kwargs.get("attention_mask")


def rotates_by_positions_alone(decoder: nn.Module) -> bool:
    """Whether the decoder's rotation needs nothing but rows and their positions."""
    _rows, *takes = inspect.signature(decoder.get_submodule("rotary_emb").forward).parameters.values()
    return {each.name for each in takes if each.default is each.empty} == {"position_ids"}


class DecoderParts:
    """The children of a decoder that has just those of `DECODER`, and how its own forward calls them."""

    def __init__(self, decoder: nn.Module) -> None:
        self._children: Mapping[str, Any] = own_modules(decoder)

    def embed(self, ids_BT: torch.Tensor | None) -> torch.Tensor:
        return torch.as_tensor(self._children["embed_tokens"](ids_BT))

    def rotation(self, hidden_BTD: torch.Tensor, position_ids: torch.Tensor) -> Any:
        return self._children["rotary_emb"](hidden_BTD, position_ids=position_ids)

    def norm(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """What comes out of the last layer, as the head takes it."""
        return torch.as_tensor(self._children["norm"](hidden_BTD))
