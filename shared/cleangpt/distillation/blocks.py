"""A causal language model as a sequence of blocks: runs it up to one of them, and lists each one's parameters.

Shapes: B rows, T positions, N predicting positions, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch
from cleangpt.distillation.text import predicting
from cleangpt.model.first_layers import first_layers
from cleangpt.model.form import check_form
from cleangpt.trainers.causal_logits import causal_logits, check_ids
from splitlearn.model.layout import ModelLayout, inspect_model
from splitlearn.model.traits import row_width


class Blocks:
    """The blocks of any causal model that `splitlearn` can cut. It works on the model itself, without a copy.

    All but `logits` and `vocab_size` raise UnsupportedModel if the model has no list of layers.

    Raises:
        ModelFormError: the model is a plain module.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        check_form(model)
        self.model = model
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])

    @cached_property
    def _layout(self) -> ModelLayout:
        return inspect_model(self.model)

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return self._layout.n_layers

    @property
    def width(self) -> int:
        """The hidden size, D."""
        return int(row_width(self.model.config))

    def after(self, ids_BT: Tensor, block: int) -> Tensor:
        """The hidden states [B, T, D] after `block`, counted from 0; later blocks do not run."""
        check_ids(self.model, ids_BT)
        found: list[Tensor] = []

        def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            found.append((output[0] if isinstance(output, tuple) else output).flatten(2))

        with first_layers(self.model, self._layout.layers, block + 1) as layers:
            hook = layers[-1].register_forward_hook(keep)
            try:
                self.model.get_submodule(self._layout.decoder)(input_ids=ids_BT, use_cache=False)
            finally:
                hook.remove()
        return found[0]

    def logits(self, batch: Batch) -> Tensor:
        """The whole model's logits at the predicting positions, [N, V]."""
        check_ids(self.model, batch.ids_BT)
        return causal_logits(self.model, batch.ids_BT, predicting(batch))

    def parameters_of(self, block: int) -> list[nn.Parameter]:
        """The parameters of one block; the embeddings belong to the first."""
        return self._placed(lambda section, layer: layer == block or (block == 0 and section == "begin"))

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of final norm and head, including the embeddings if the head is tied to them."""
        head = self.model.get_output_embeddings().weight
        rear = self._placed(lambda section, _: section == "end")
        return rear if any(each is head for each in rear) else [*rear, head]

    def begin_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the embeddings, and of what else stands before the blocks, by name and in order."""
        return self._named(self._layout.prefix_modules)

    def block_parameters(self, block: int) -> dict[str, nn.Parameter]:
        """The parameters of one block alone, by name and in order."""
        return self._named((f"{self._layout.layers}.{block}",))

    def end_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of final norm and head, by name and in order, also of a head that is tied."""
        return self._named(self._layout.suffix_modules)

    def _named(self, paths: Sequence[str]) -> dict[str, nn.Parameter]:
        modules = [(path, self.model.get_submodule(path)) for path in paths]
        return {f"{path}.{name}": each for path, module in modules for name, each in module.named_parameters()}

    def _placed(self, wanted: Callable[[str, int | None], bool]) -> list[nn.Parameter]:
        named = self.model.named_parameters()
        return [each for name, each in named if wanted(*self._layout.place(name)[:2])]
