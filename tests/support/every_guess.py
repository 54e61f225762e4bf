"""`python -m tests.support.every_guess client ...`: `splitlearn`, whose client runs every guess, if it pays or not.

For tests of what answers are with guesses: how many pay depends on the machine, and beside many others hardly any do.
"""

import sys

from splitlearn_cli.__main__ import main
from splitlearn_client.speculation.draft_length import DraftLength


def takes(length: DraftLength, _probability: float) -> bool:
    """In place of `DraftLength.takes`: as long as there are rows."""
    length.length += length.length < length.most
    return True


if __name__ == "__main__":
    DraftLength.takes = takes  # type: ignore[method-assign]
    sys.exit(main())
