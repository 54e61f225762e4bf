"""How much of a server is in use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """How much of a server is in use: sessions, and rows that it has memory for. None is negative."""

    running_sessions: int = 0
    waiting_sessions: int = 0
    total_rows: int = 0
    free_rows: int = 0
