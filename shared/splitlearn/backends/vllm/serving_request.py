"""What vLLM is asked to serve."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from llm_sepweight import Manifest, PartSpec
from splitlearn.model.part import Part


@dataclass(frozen=True)
class ServingRequest:
    """Some layers of a sepweight directory, and the bounds of what runs at a time.

    Attributes:
        directory: the sepweight directory.
        config: the Hugging Face config of the whole model, with its `architectures`.
        spec: layers alone, without a gap.
        n_layers: of the whole model.
        dtype: of weights and rows, such as "bfloat16".
        max_rows: new rows in one forward.
        max_requests: sessions in one forward.
        n_workers: processes that share each layer.
    """

    directory: Path
    config: dict[str, Any]
    spec: PartSpec
    n_layers: int
    dtype: str
    max_rows: int
    max_requests: int
    n_workers: int = 1

    @classmethod
    def of(
        cls, part: Part, directory: Path, manifest: Manifest, max_rows: int, max_requests: int, n_workers: int
    ) -> Self:
        """For a part of that directory, which need not be filled."""
        # vLLM finds its code for a model by the name of the class in transformers
        config = {"architectures": [type(part.model).__name__], **manifest.config}
        dtype = str(part.dtype).removeprefix("torch.")
        n_layers = part.layout.n_layers
        return cls(directory, config, part.spec, n_layers, dtype, max_rows, max_requests, n_workers)

    @property
    def partition(self) -> str:
        """How many layers each rank of a pipeline of three has, of which vLLM runs the middle one."""
        (layers,) = self.spec.layers
        return f"{layers.start},{len(layers)},{self.n_layers - layers.stop}"
