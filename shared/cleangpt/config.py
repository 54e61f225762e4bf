"""The type and the sizes of a small model, as plain values without tensors."""

from dataclasses import dataclass, fields

from cleangpt.errors import BadConfigError

COMMON_OPTIONS = ("dropout", "bias", "alibi")
"""The options that every model of this package has."""

OWN_OPTIONS = ("skip_connections", "value_projection", "output_projection", "head_mixing")
"""The options of single architectures; `cleangpt.model.registry` knows which model has which."""

OPTIONS = (*COMMON_OPTIONS, *OWN_OPTIONS)


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a model, under the names that GPT-2 made common.

    `model_type` is a name in `cleangpt.model.MODEL_REGISTRY`. `block_size` is the longest text in tokens. `n_inner` is
    the width inside the MLP; None means four times `n_embd`. `bias` applies to linear layers and LayerNorms.
    `alibi` replaces the learned positions with linear biases.

    Some models alone have the other options, and refuse them elsewhere. In SASP, `skip_connections` adds a layer's
    input to its output, `value_projection` lets heads read a projection of the rows, and without `output_projection`
    what heads wrote is not projected. In Factored, heads are not weighed against each other without `head_mixing`.

    Raises:
        BadConfigError: a size is below one, `n_head` does not divide `n_embd`, `dropout` is outside [0, 1), or a
            special token id is outside the vocabulary.
    """

    model_type: str = "Vanilla"
    block_size: int = 1024
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    n_inner: int | None = None
    dropout: float = 0.0
    bias: bool = True
    alibi: bool = False
    skip_connections: bool = False
    value_projection: bool = False
    output_projection: bool = True
    head_mixing: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "n_inner"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadConfigError(f"{name} must be at least 1, found {value}")
        if self.n_embd % self.n_head:
            raise BadConfigError(
                f"n_embd must be a multiple of n_head, so that each head has an equal share of it; "
                f"found n_embd={self.n_embd} and n_head={self.n_head}"
            )
        if not 0 <= self.dropout < 1:
            raise BadConfigError(f"dropout must be at least 0 and below 1, found {self.dropout}")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            token = getattr(self, name)
            if token is not None and not 0 <= token < self.vocab_size:
                raise BadConfigError(f"{name} must be one of the {self.vocab_size} token ids, found {token}")

    @property
    def changed_options(self) -> tuple[str, ...]:
        """The names of the options that are not at their defaults."""
        options = (each for each in fields(self) if each.name in OPTIONS)
        return tuple(each.name for each in options if getattr(self, each.name) != each.default)
