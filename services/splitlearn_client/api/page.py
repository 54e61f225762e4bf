"""The chat page: static files, under a policy that lets it load and call this service alone."""

from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.staticfiles import StaticFiles

# paths below it are the page's files
PAGE_PATH: Final = "/page/"

# Content Security Policy Level 3 and Trusted Types: no inline script or style, nothing from elsewhere, and text becomes
# HTML through DOMPurify alone
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # the links of an answer are looked up once they are followed
    "X-DNS-Prefetch-Control": "off",
    # browsers ask each time whether a file has changed: a new version of the service comes with a new page
    "Cache-Control": "no-cache",
}


class _Files(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_HEADERS)
        return response


def add_page_routes(routes: APIRouter) -> None:
    """`GET /` and the files that it names."""
    page = _Files(packages=[("splitlearn_client", "page")])

    @routes.get("/")
    async def index(request: Request) -> Response:
        return await page.get_response("index.html", request.scope)

    @routes.get(PAGE_PATH + "{name:path}")
    async def file(name: str, request: Request) -> Response:
        return await page.get_response(name, request.scope)
