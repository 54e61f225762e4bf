"""CORS: allows pages of other origins to call the API and to read all responses, errors included."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from splitlearn_client.request_info import REQUEST_ID


def readable_from(origins: Sequence[str], app: ASGIApp) -> ASGIApp:
    """The application with CORS for these origins; `*` allows all, and without origins nothing changes."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=("Retry-After", REQUEST_ID),
    )
