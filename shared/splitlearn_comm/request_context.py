"""What names a request in the logs and traces of all services that it passes through.

Over HTTP these are headers, and over gRPC metadata of the same names. They come from strangers: what is malformed or
too long counts as missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# Visible ASCII without quotes and backslashes: one word in any log.
_REQUEST_ID: Final = re.compile(r"[!#-&(-\[\]-_a-~]{1,128}")
# https://www.w3.org/TR/trace-context/: only version 00 is defined, and ids are not all zeros.
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
# The specification asks for 512 characters at least.
_TRACESTATE: Final = re.compile(r"[ -~]{1,512}")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """`request_id` is the header X-Request-Id; the other two are W3C's trace context. Empty where there is none."""

    request_id: str = ""
    traceparent: str = ""
    tracestate: str = ""

    @classmethod
    def read(cls, fields: Iterable[tuple[str, str | bytes]]) -> RequestContext:
        """The context in headers or metadata, whose names are in lower case. Of a repeated field the first counts."""
        found = {name: value for name, value in reversed([*fields]) if name in _FIELDS}
        return cls(*(_checked(name, found.get(name, "")) for name in _FIELDS)).without_orphans()

    def without_orphans(self) -> RequestContext:
        """A tracestate says nothing without the traceparent that it belongs to."""
        return self if self.traceparent else RequestContext(self.request_id)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes on to the next service."""
        values = (self.request_id, self.traceparent, self.tracestate)
        return tuple((name, value) for name, value in zip(_FIELDS, values, strict=True) if value)


# In the order of the dataclass's fields.
_FIELDS: Final = {"x-request-id": _REQUEST_ID, "traceparent": _TRACEPARENT, "tracestate": _TRACESTATE}


def _checked(name: str, value: str | bytes) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text if _FIELDS[name].fullmatch(text) else ""
