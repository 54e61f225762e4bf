"""The model and tokenizer that a training starts from, where `--init-from` names their folder."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from cleangpt.cli.options import spelled
from cleangpt.cli.train_options import TrainOptions
from cleangpt.config import OPTIONS, GPTConfig
from cleangpt.errors import UsageError
from cleangpt.model import MODEL_REGISTRY, get_model
from cleangpt.model.context import context_of
from cleangpt.model.folder import open_model
from cleangpt.model.lora import add_lora, linear_weights
from cleangpt.model.registry import options_of
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer
from cleangpt.trainers.random_streams import torch_seed
from splitlearn.model.layout import inspect_model
from splitlearn.model.plan import SplitPlan

if TYPE_CHECKING:
    from peft import LoraModel

_ATTRIBUTES = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "vocab_size": "vocab_size",
    **{option: option for option in OPTIONS},
}


def opened_start(options: TrainOptions, folder: Path) -> tuple[PreTrainedModel, TrainOptions]:
    """The model in `folder`, in float32, and the options with a block size that it has positions for.

    Layers that the options freeze need no gradient; around them the weights are drawn anew where the options say so.

    Raises:
        UsageError: a flag that the user gave contradicts the model.
        BadPlan: the frozen layers are no middle of the model.
        ModelFolderError, SepweightError, SplitError: there is no model that can be read; see `open_model`.
    """
    if folder.resolve() == options.out.resolve():
        raise UsageError(f"--init-from and --out are both {folder}; write to another directory")
    disable_progress_bar()
    model = open_model(folder).float().requires_grad_(True)
    _refuse_contradictions(options, model, folder)
    if options.freeze_layers is not None:
        model = _with_frozen(model, options, options.freeze_layers)
    context = context_of(model)
    if context is None or options.block_size <= context:
        return model, options
    if "block_size" in options.given:
        raise UsageError(f"--block-size is {options.block_size}, and the model in {folder} has {context} positions")
    return model, replace(options, block_size=context)


def _with_frozen(model: PreTrainedModel, options: TrainOptions, layers: str) -> PreTrainedModel:
    """The model, or a new one around its frozen layers, with gradients for all weights but theirs."""
    layout = inspect_model(model)
    plan = SplitPlan.parse(layers, layout.n_layers)
    frozen = list(model.get_submodule(layout.layers).children())[plan.first : plan.last]
    if options.new_ends:
        torch.manual_seed(torch_seed(options.seed))
        model = type(model)(model.config).float()
        stack = model.get_submodule(layout.layers)
        for layer, module in enumerate(frozen, start=plan.first):
            stack.register_module(str(layer), module)
    torch.nn.ModuleList(frozen).requires_grad_(False)
    return model


def with_lora(model: PreTrainedModel, rank: int, alpha: int, seed: int) -> "LoraModel":
    """Adds updates of low rank, drawn from the seed, to the linear layers around those that are frozen; see `add_lora`.

    Raises:
        UsageError: an update of that rank is none of low rank, or no linear layer is there to update.
        PackageMissingError: peft is not installed.
    """
    layers = model.get_submodule(inspect_model(model).layers).children()
    targets = linear_weights(model, [each for each in layers if any(one.requires_grad for one in each.parameters())])
    if not targets:
        raise UsageError(
            f"--lora-rank updates linear layers, and the ends of this {model.config.model_type} have none; leave it "
            "out to train all of their weights"
        )
    widths = {path: min(each.shape) for path, each in targets.items()}
    narrowest = min(widths, key=widths.__getitem__)
    if rank > widths[narrowest]:
        raise UsageError(
            f"--lora-rank is {rank}, and {narrowest} is {widths[narrowest]} wide: an update of it has no higher rank. "
            f"Give at most {widths[narrowest]}, or leave --lora-rank out to train all weights of the ends"
        )
    torch.manual_seed(torch_seed(seed))
    return add_lora(model, targets, rank, alpha)


def tokenizer_beside(folder: Path, model: PreTrainedModel) -> BaseTokenizer:
    """The tokenizer of the model in `folder`. Raises TokenizerFilesError if it has none."""
    return create_tokenizer("hugging_face", folder=folder, context=context_of(model))


def refuse_larger_vocabulary(tokenizer: BaseTokenizer, model: PreTrainedModel, folder: Path) -> None:
    """Raises UsageError if the tokenizer has ids that the model in `folder` lacks."""
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise UsageError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, and the model in {folder} has ids below {rows}; "
            "leave out --tokenizer-type to use the tokenizer beside the model"
        )


def _refuse_contradictions(options: TrainOptions, model: PreTrainedModel, folder: Path) -> None:
    config = model.config.get_text_config(decoder=True)
    # of a tokenizer that is trained on the data, the vocabulary's size is no claim about the model
    names = set(options.given) - ({"vocab_size"} if "tokenizer_type" in options.given else set())
    claims = {name: (spelled(name), getattr(options, name), _ATTRIBUTES[name]) for name in _ATTRIBUTES if name in names}
    claims |= {name: (f"{name} in the table [model]", value, name) for name, value in options.model.items()}
    for said, value, attribute in claims.values():
        found = getattr(config, attribute, None)
        if found != value:
            raise UsageError(
                f"{said} is {value}, and the model in {folder} has {_shown(found)}: --init-from takes it as it is, so "
                "leave that out"
            )
    if "model_type" in names and not _is_of_type(options.model_type, config):
        raise UsageError(
            f"--model-type is {options.model_type}, and the model in {folder} is of type {config.model_type}: "
            "--init-from takes it as it is, so leave that out"
        )


def _shown(found: Any) -> str:
    return "none" if found is None else str(found)


def _is_of_type(name: str, config: Any) -> bool:
    if name not in MODEL_REGISTRY:
        return bool(name == config.model_type)
    foreign = set(OPTIONS) - set(options_of(name))
    sizes = {
        ours: getattr(config, theirs)
        for ours, theirs in _ATTRIBUTES.items()
        if hasattr(config, theirs) and ours not in foreign
    }
    # the name stands for a function, so only what it builds tells the type
    with torch.device("meta"):
        built: Any = get_model(name, config=GPTConfig(**{**sizes, "n_layer": 1})).config
    return built.model_type == config.model_type and getattr(built, "alibi", None) == getattr(config, "alibi", None)
