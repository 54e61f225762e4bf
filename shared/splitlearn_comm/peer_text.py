"""Makes text from the other end fit for logs and messages: one line of limited length."""

from __future__ import annotations

from typing import Final

# Longer than any of our own messages; statuses travel in HTTP/2 headers, which hold 8 KiB in total.
LONGEST: Final = 1000


def clipped(text: str, most: int = LONGEST) -> str:
    """`text` with unprintable characters written as Python escapes, cut off after `most` characters."""
    kept = text[:most]
    if not kept.isprintable():
        kept = "".join(each if each.isprintable() else repr(each)[1:-1] for each in kept)[:most]
    return kept if len(text) <= most and len(kept) <= most else f"{kept}... ({len(text)} characters)"
