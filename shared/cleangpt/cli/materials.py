"""Creates the tokenizer, batches and model according to the options of `cleangpt train`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from cleangpt.cli.starting import opened_start, refuse_larger_vocabulary, tokenizer_beside, with_lora
from cleangpt.cli.train_options import TrainOptions
from cleangpt.config import OPTIONS, GPTConfig
from cleangpt.data import Conversations, Cutting, Reading, read_source, reading_of, texts_of
from cleangpt.data.stdlib_questions import Question
from cleangpt.errors import BadConfigError, CleangptError, ModelOptionError, ModelUnknownError
from cleangpt.model import MODEL_REGISTRY, get_model
from cleangpt.model.context import context_of
from cleangpt.model.form import check_form
from cleangpt.model.registry import check_options, options_of
from cleangpt.tokenizers import BaseTokenizer, create_tokenizer
from cleangpt.trainers.causal_logits import try_out
from cleangpt.trainers.random_streams import torch_seed

if TYPE_CHECKING:
    from peft import LoraModel

_SIZES = ("n_layer", "n_head", "n_embd", "block_size")
_LONGEST_REASON = 300


@dataclass(frozen=True, eq=False)
class Materials:
    """The inputs of a training. `made_from` describes those that neither data nor weights tell; see `Checkpoints`.

    `questions` are those of the interpreter's, if the source holds them. If only updates of low rank are trained,
    `lora` merges them into the model's weights.
    """

    tokenizer: BaseTokenizer
    model: PreTrainedModel
    text: Reading
    made_from: Mapping[str, str]
    questions: tuple[Question, ...] = ()
    lora: "LoraModel | None" = None


def gather(options: TrainOptions) -> Materials:
    """Reads the data, trains or loads the tokenizer, and creates or loads the model.

    A new model's weights are drawn from the seed. Raises the errors of texts, tokenizers and models, and UsageError if
    options contradict each other.
    """
    found = read_source(options.data, column=options.column, split=options.split, max_samples=options.max_samples)
    start = options.init_from
    if start is None:
        tokenizer = _tokenizer(options, found)
        torch.manual_seed(torch_seed(options.seed))
        model = new_model(options, tokenizer)
    else:
        model, options = opened_start(options, start)
        is_given = "tokenizer_type" in options.given
        tokenizer = _tokenizer(options, found) if is_given else tokenizer_beside(start, model)
        refuse_larger_vocabulary(tokenizer, model, start)
    text = reading_of(found, options.data, tokenizer, _cutting(options))
    items = found.items if isinstance(found, Conversations) else ()
    questions = tuple(each for each in items if isinstance(each, Question))
    rank, alpha = options.lora_rank, options.lora_alpha or options.lora_rank
    lora = None if rank is None or alpha is None else with_lora(model, rank, alpha, options.seed)
    made_from = {
        "model": model.config.to_json_string(),
        "frozen layers": options.freeze_layers or "none",
        "LoRA rank": str(rank or "none"),
        "LoRA alpha": str(alpha or "none"),
    }
    return Materials(tokenizer, model, text, made_from, questions, lora)


def _tokenizer(options: TrainOptions, found: list[str] | Conversations) -> BaseTokenizer:
    return create_tokenizer(
        options.tokenizer_type,
        texts=texts_of(found),
        vocab_size=options.vocab_size,
        context=options.block_size,
        chat=isinstance(found, Conversations),
        system=isinstance(found, Conversations) and found.has_system,
    )


def _cutting(options: TrainOptions) -> Cutting:
    return Cutting(
        # the last id of a block is only predicted, so one more id fills the whole context
        block_size=options.block_size + 1,
        batch_size=options.batch_size,
        context=options.block_size,
        batch_tokens=options.batch_tokens,
        seed=options.seed,
        validation=options.validation,
        parse_special_tokens=options.parse_special_tokens,
    )


def new_model(options: TrainOptions, tokenizer: BaseTokenizer) -> PreTrainedModel:
    """A model from the registry or from transformers.

    Raises ModelUnknownError, BadConfigError, or ModelOptionError if the model does not have an option that was given.
    """
    known = {
        "vocab_size": tokenizer.vocab_size,
        "bos_token_id": tokenizer.fast.bos_token_id,
        "eos_token_id": tokenizer.fast.eos_token_id,
        "pad_token_id": tokenizer.fast.pad_token_id,
    }
    if options.model_type in MODEL_REGISTRY:
        model = _registered(options, known)
    elif options.model_type in CONFIG_MAPPING:
        model = _of_transformers(options, known)
    else:
        raise ModelUnknownError(
            f"there is no model called {options.model_type!r}; choose one of {', '.join(sorted(MODEL_REGISTRY))}, "
            "or a model_type of transformers such as qwen3, llama or gpt2"
        )
    context = context_of(model)
    if context is not None and context < options.block_size:
        raise BadConfigError(
            f"this {options.model_type} has {context} positions, and --block-size is {options.block_size}; give a "
            "smaller one, or set the field of its own config that says how many it has in the table [model] of the "
            "--config file"
        )
    return model


def _registered(options: TrainOptions, known: dict[str, Any]) -> PreTrainedModel:
    check_options(options.model_type, _options_given(options))
    foreign = set(OPTIONS) - set(options_of(options.model_type))
    _refuse_unknown_fields(options, {each.name for each in fields(GPTConfig)} - foreign)
    sizes = {name: getattr(options, name) for name in (*_SIZES, *OPTIONS)}
    values: dict[str, Any] = {**known, **sizes, **options.model, "model_type": options.model_type}
    model = get_model(options.model_type, config=GPTConfig(**values))
    check_form(model)
    return model


def _options_given(options: TrainOptions) -> list[str]:
    """The options of models that the user gave, or that are not at their defaults."""
    return [name for name in OPTIONS if name in options.given or getattr(options, name) != getattr(TrainOptions, name)]


def _of_transformers(options: TrainOptions, known: dict[str, Any]) -> PreTrainedModel:
    try:
        check_options(options.model_type, _options_given(options))
    except ModelOptionError as error:
        hint = "or put the field that its own config has into the table [model] of the --config file"
        raise ModelOptionError(f"{error}, {hint}") from error
    plain = AutoConfig.for_model(options.model_type)
    head_dim = options.n_embd // options.n_head
    # the model types' defaults are those of large models, so sizes without a flag are derived from those with one
    wanted = {
        "num_hidden_layers": options.n_layer,
        "num_attention_heads": options.n_head,
        "num_key_value_heads": options.n_head,
        "hidden_size": options.n_embd,
        "head_dim": head_dim,
        "d_head": head_dim,
        "rotary_dim": head_dim,
        # of a decoder that has an encoder beside it, which is not built
        "decoder_layers": options.n_layer,
        "decoder_attention_heads": options.n_head,
        "decoder_ffn_dim": 4 * options.n_embd,
        "intermediate_size": 4 * options.n_embd,
        "max_position_embeddings": options.block_size,
    }
    sizes = {name: size for name, size in wanted.items() if _is_field(plain, name)}
    _refuse_unknown_fields(options, {name for name in {*plain.to_dict(), *options.model} if _is_field(plain, name)})
    try:
        config = AutoConfig.for_model(options.model_type, **{**known, **sizes, **options.model})
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        try_out(model)
    except CleangptError:
        raise
    except Exception as error:
        # what a type makes of sizes that it was not written for may be any exception
        reason = " ".join(str(error).split())[:_LONGEST_REASON].rstrip(".")
        raise BadConfigError(
            f"{options.model_type} cannot be made a causal language model of these sizes: {reason}. Change --n-layer, "
            "--n-head or --n-embd, set its own fields in the table [model] of the --config file, or take another type"
        ) from error
    return model


def _is_field(config: Any, name: str) -> bool:
    """Whether the config has a field of that name which can be set."""
    if not isinstance(getattr(type(config), name, None), property):
        return hasattr(config, name)
    try:
        setattr(config, name, getattr(config, name))
    except (AttributeError, NotImplementedError):
        return False
    return True


def _refuse_unknown_fields(options: TrainOptions, allowed: Iterable[str]) -> None:
    unknown = sorted(set(options.model) - set(allowed))
    if unknown:
        raise BadConfigError(
            f"the table [model] has {', '.join(unknown)}, which the config of {options.model_type} does not have; "
            f"it has {', '.join(sorted(allowed))}"
        )
