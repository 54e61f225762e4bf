"""Pages of other origins may ask from a browser, and read every answer, refusals included."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp


def readable_from(origins: Sequence[str], app: ASGIApp) -> ASGIApp:
    """The application for pages of these origins too; `*` stands for all, and none leaves it as it is."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        expose_headers=("Retry-After",),
    )
