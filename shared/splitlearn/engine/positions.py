"""The one rule of positions, as plain integers.

Rows sent for position p mean: keep the session's first p rows, then append these. A resend is therefore
idempotent, sending no rows truncates, and a lost session is rebuilt by sending everything again from 0.
"""

from splitlearn.errors import ContextExceeded, PositionNotReached


def check_position(position: int, n_rows: int, reached: int, limit: int | None) -> None:
    """Passes if `n_rows` may be put at `position`, dropping what the session holds from there on.

    Args:
        position: first position of the new rows.
        n_rows: number of new rows; 0 only truncates.
        reached: number of rows that the session holds.
        limit: the most rows that it may hold; None for no limit.

    Raises:
        PositionNotReached: `position` lies beyond `reached`, or is negative.
        ContextExceeded: the rows would pass `limit`.
    """
    if not 0 <= position <= reached:
        raise PositionNotReached(
            f"position {position} was never reached: the session holds {reached} rows, "
            f"so the next rows belong at 0 to {reached}"
        )
    if limit is not None and position + n_rows > limit:
        raise ContextExceeded(
            f"{n_rows} rows at position {position} make {position + n_rows}, but the limit is {limit} rows"
        )
