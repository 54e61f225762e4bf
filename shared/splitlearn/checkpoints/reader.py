"""Read a Hugging Face checkpoint one tensor at a time, under the names its model uses in memory.

Checkpoints on disk may use other names, or several tensors where the model has one (experts, fused
projections). transformers knows the conversions; each becomes a `TensorConversion`; they are run
one by one, so that no more than the tensors of one are in memory.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from splitlearn.checkpoints.weight_files import StoredTensor, stored_tensors
from splitlearn.errors import BadCheckpoint
from splitlearn.hf.conversion import Conversions, WeightConverter, convert, natural_order


@dataclass
class TensorConversion:
    """Turns some tensors of the checkpoint into one or several of the model; reads them only when asked."""

    target: str
    converter: WeightConverter | None = None
    inputs: list[tuple[str, StoredTensor]] = field(default_factory=list)

    def apply(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """The tensors by their names in the model's state dict."""
        return self._convert(model, [stored.read for _, stored in self.inputs])

    def outline(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """The same names with tensors on the meta device; nothing is read but headers.

        Raises:
            BadCheckpoint: the stored tensors are not such that the model's could be made of them.
        """
        try:
            return self._convert(model, [stored.outline for _, stored in self.inputs])
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            keys = f"{self.inputs[0][1].key} and {len(self.inputs) - 1} more" if self.inputs else "nothing"
            raise BadCheckpoint(
                f"{self.target} cannot be made of {keys}: {' '.join(str(error).split())[:200]}; "
                "config.json and weights are of different models, or some weights are missing"
            ) from error

    def _convert(self, model: PreTrainedModel, readers: list[Callable[[], torch.Tensor]]) -> dict[str, torch.Tensor]:
        if self.converter is None:
            return {self.target: readers[0]()}
        inputs = zip(self.inputs, readers, strict=True)
        given = ((pattern, stored.key, read) for (pattern, stored), read in inputs)
        return convert(self.converter, self.target, model, given)


@dataclass(frozen=True)
class Reading:
    """What comes of each stored tensor: it goes into a conversion, or the model has no place for it."""

    conversions: list[TensorConversion]
    left_out: list[StoredTensor]

    def used(self, wanted: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor, StoredTensor]]:
        """Each stored tensor that goes into a conversion, with the name and outline of the first tensor it makes."""
        for conversion in self.conversions:
            for _, stored in conversion.inputs:
                yield conversion.target, wanted[conversion.target], stored


def read_checkpoint(stored: Mapping[str, StoredTensor], model: PreTrainedModel) -> Reading:
    """How each tensor of `model` (on the meta device) is made from the tensors of a checkpoint, by their names."""
    conversions = Conversions(model)
    wanted = model.state_dict(keep_vars=True)
    made: dict[str, TensorConversion] = {}
    left_out = []
    for key, tensor in sorted(stored.items(), key=lambda item: natural_order(item[0])):
        name, pattern = conversions.name_and_pattern(key)
        if name not in wanted and key in wanted:
            name, pattern = key, None
        # a second tensor for one place would go nowhere
        is_second = name in made and (pattern is None or made[name].converter is None)
        if name not in wanted or is_second:
            left_out.append(tensor)
            continue
        converter = conversions.converter(pattern) if pattern is not None else None
        made.setdefault(name, TensorConversion(name, converter)).inputs.append((pattern or key, tensor))
    return Reading(list(made.values()), left_out)


def read_tensors(source: Path) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint by the names that they have in its files, mapped rather than read.

    Raises:
        BadCheckpoint: as `splitlearn.checkpoints.weight_files.stored_tensors`.
    """
    return {key: stored.read() for key, stored in stored_tensors(source).items()}
