"""The values that the two ends exchange, and the one rule about positions. T is the number of rows, D their width.

A frame at position p means: keep the first p rows of the session, then append these rows. It follows that
a resend is idempotent, a frame without rows truncates to p, and a p beyond the rows reached is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitlearn_comm.errors import InvalidRequest, InvalidTensor, PositionNotReached, SessionTooLong
from splitlearn_comm.load import ServiceLoad


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Rows at a position. `rows` is [T, D], or None to truncate. Compared by identity, as tensors are.

    Raises:
        InvalidRequest: the position is negative.
        InvalidTensor: the rows are not two-dimensional.
    """

    position: int
    rows: Tensor | None

    def __post_init__(self) -> None:
        if self.position < 0:
            raise InvalidRequest(f"a frame's position is never negative, got {self.position}")
        if self.rows is not None and self.rows.dim() != 2:
            raise InvalidTensor(f"a frame's rows have shape [rows, width], got {list(self.rows.shape)}")

    @property
    def row_count(self) -> int:
        return 0 if self.rows is None else self.rows.shape[0]


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a frame says about itself: enough to refuse it before its rows are decoded.

    `shape` is [T, D] and `dtype` that of the decoded rows; both are None in a frame that truncates.
    """

    position: int
    shape: tuple[int, int] | None
    dtype: torch.dtype | None

    @classmethod
    def of(cls, frame: Frame) -> FrameHeader:
        rows = frame.rows
        return cls(frame.position, None, None) if rows is None else cls(frame.position, _two(rows.shape), rows.dtype)

    @property
    def row_count(self) -> int:
        return 0 if self.shape is None else self.shape[0]

    def __str__(self) -> str:
        what = "nothing" if self.shape is None else f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"
        return f"{what} at position {self.position}"


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """The answer to one frame: the same position, the output rows [T, D], and the server's times in seconds."""

    frame: Frame
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What a server reports about itself. The server fills in `total_requests`, `uptime_seconds` and `instance`.

    `load` is None if the server does not measure it. `instance` is a random name of this server, the same by whatever
    address it is asked; empty if it does not say.
    """

    service_name: str
    version: str
    device: str
    fingerprint: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    total_requests: int = 0
    uptime_seconds: float = 0.0
    load: ServiceLoad | None = None
    instance: str = ""


def reached_after(frame: Frame, *, reached: int, max_length: int) -> int:
    """The number of rows that a session holds after `frame` is applied to the `reached` rows that it holds now.

    Pure: on an error, nothing has changed.

    Raises:
        PositionNotReached: the position is beyond `reached`.
        SessionTooLong: the session would hold more than `max_length` rows.
    """
    if frame.position > reached:
        raise PositionNotReached(
            f"the frame starts at position {frame.position}, but the session has reached only {reached}; "
            f"resend from position {reached} or before"
        )
    length = frame.position + frame.row_count
    if length > max_length:
        raise SessionTooLong(
            f"{frame.row_count} rows at position {frame.position} make {length}, "
            f"but the session was opened for at most {max_length}"
        )
    return length


def _two(shape: torch.Size) -> tuple[int, int]:
    return shape[0], shape[1]
