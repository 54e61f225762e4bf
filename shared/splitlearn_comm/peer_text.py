"""Text of the other end, made fit for logs and messages: on one line, and no longer than a line should be."""

from __future__ import annotations

from typing import Final

# Longer than any message of ours; statuses travel in HTTP/2 headers, which together hold 8 KiB.
LONGEST: Final = 1000


def clipped(text: str, most: int = LONGEST) -> str:
    """`text` with everything that is not printable written as Python's escapes, its end left out beyond `most`."""
    kept = text[:most]
    if not kept.isprintable():
        kept = "".join(each if each.isprintable() else repr(each)[1:-1] for each in kept)[:most]
    return kept if len(text) <= most and len(kept) <= most else f"{kept}... ({len(text)} characters)"
