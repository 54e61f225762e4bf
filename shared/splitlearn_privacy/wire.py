"""What the client does to rows before they leave: noise, and the codec of the wire.

Shapes: W width of a row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from splitlearn_comm.core.registry import codec_named, unpack


@dataclass(frozen=True)
class Distortion:
    """`codec` is a name that `splitlearn_comm` knows.

    `noise` is the standard deviation of Gaussian noise, relative to the root mean square of a row. Noise is added to
    outgoing rows only: those that come back were computed by the worker.
    """

    codec: str = "none"
    noise: float = 0.0

    def __str__(self) -> str:
        return f"codec {self.codec}, noise {self.noise:g}"

    def of(self, rows: Tensor, seed: int) -> Tensor:
        """The rows [..., W] that the worker decodes."""
        if self.noise:
            scale = rows.float().square().mean(-1, keepdim=True).sqrt() * self.noise
            source = torch.Generator().manual_seed(seed)
            rows = (rows.float() + scale * torch.randn(rows.shape, generator=source)).to(rows.dtype)
        return self.coded(rows)

    def coded(self, rows: Tensor) -> Tensor:
        """The rows [..., W] that the receiver decodes, without noise."""
        return unpack(codec_named(self.codec).pack(rows.reshape(-1, rows.shape[-1]))).reshape(rows.shape)

    def bytes_of_row(self, row_W: Tensor) -> int:
        """The bytes of one coded row."""
        return len(codec_named(self.codec).pack(row_W[None]).data)
