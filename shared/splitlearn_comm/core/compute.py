"""The stateless side: one tensor in, one tensor out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitlearn_comm.core.codec import TensorCodec


class ComputeFunction(ABC):
    """What a server does with a tensor. All methods except get_info run on the server's worker threads."""

    @abstractmethod
    def compute(self, input_tensor: Tensor) -> Tensor:
        """Compute the output; both tensors may have any shape. The function owns `input_tensor` and may write into it.

        The server makes one call at a time, unless it has several workers.
        """

    @abstractmethod
    def get_info(self) -> Mapping[str, object]:
        """Facts for ServiceInfo: `service_name`, `version`, `device` and `fingerprint` fill the fields of
        the same names, everything else becomes an attribute. Must be cheap enough for the event loop."""

    def setup(self) -> None:  # noqa: B027 - optional
        """Called once, before the first compute."""

    def teardown(self) -> None:  # noqa: B027 - optional
        """Called once, after the last compute."""


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """How a server runs its compute function.

    Attributes:
        max_workers: threads, and so concurrent computes. If more than 1, the function must be thread-safe.
        codec: for replies to clients that request none.
        version: of the service, if the function's own info has none.
    """

    max_workers: int = 1
    codec: TensorCodec = field(default_factory=TensorCodec)
    version: str = "1.0.0"

    def __post_init__(self) -> None:
        if self.max_workers < 1:
            raise ValueError(f"max_workers is at least 1, got {self.max_workers}")


class ModelComputeFunction(ComputeFunction):
    """Runs a module without gradients. Takes ownership of the module: moves it to `device`, puts it in eval mode."""

    def __init__(
        self, model: torch.nn.Module, device: str | torch.device = "cpu", model_name: str | None = None
    ) -> None:
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        self.model_name = model_name or type(model).__name__

    @torch.inference_mode()
    def compute(self, input_tensor: Tensor) -> Tensor:
        output: Tensor = self.model(input_tensor.to(self.device))
        return output

    def get_info(self) -> Mapping[str, object]:
        return {"service_name": self.model_name, "device": str(self.device), "model_name": self.model_name}
