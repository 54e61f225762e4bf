"""The one rule of positions, as plain integers.

Rows sent for position p mean: keep the session's first p rows, then append these. So a resend is idempotent, sending no
rows truncates, and a session that lost its pages is rebuilt by sending everything again from 0.
"""

from splitlearn.errors import ContextExceeded, PositionNotReached


def check_position(position: int, n_rows: int, reached: int, max_length: int | None) -> None:
    """Passes if `n_rows` rows may be put at `position`, where they replace the session's rows from there on.

    Args:
        position: first position of the new rows.
        n_rows: number of new rows; 0 only truncates.
        reached: number of rows that the session holds.
        max_length: rows that the session may hold; None for no bound.

    Raises:
        PositionNotReached: `position` lies beyond `reached`, or is negative.
        ContextExceeded: the rows would exceed `max_length`.
    """
    if not 0 <= position <= reached:
        raise PositionNotReached(
            f"position {position} was never reached: the session holds {reached} rows, "
            f"so the next rows belong at 0 to {reached}"
        )
    if max_length is not None and position + n_rows > max_length:
        raise ContextExceeded(
            f"{n_rows} rows at position {position} make {position + n_rows}, but the limit is {max_length} rows"
        )
