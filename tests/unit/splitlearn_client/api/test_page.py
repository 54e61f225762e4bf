import hashlib
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from splitlearn_client.api import error_replies
from splitlearn_client.api.page import add_page_routes

PAGE = Path(str(files("splitlearn_client"))) / "page"
ROOT = Path(__file__).parents[4]
OURS = sorted(PAGE.glob("*.js"))


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app, routes = FastAPI(), APIRouter()
    add_page_routes(routes)
    app.include_router(routes)
    error_replies.install(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/page/main.js", "text/javascript"), ("/page/vendor/marked.js", "text/javascript"),
     ("/page/style.css", "text/css"), ("/page/icon.svg", "image/svg+xml")],
)  # fmt: skip
async def test_a_file_of_the_page_comes_with_its_type_and_the_policy(
    http: httpx.AsyncClient, path: str, kind: str
) -> None:
    reply = await http.get(path)
    assert reply.status_code == 200
    # a browser takes no module of another type
    assert reply.headers["content-type"].split(";")[0] == kind
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    again = await http.get(path, headers={"If-None-Match": reply.headers["etag"]})
    assert again.status_code == 304


async def test_the_policy_allows_no_inline_script_and_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    policy = (await http.get("/")).headers["content-security-policy"]
    rules = {name: values for name, *values in (rule.split() for rule in policy.split(";"))}
    assert rules["default-src"] == ["'none'"]
    sources = [value for name, values in rules.items() if name.endswith("-src") for value in values]
    assert set(sources) == {"'none'", "'self'"}
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert (rules["require-trusted-types-for"], rules["trusted-types"]) == (["'script'"], ["dompurify"])


@pytest.mark.parametrize(
    "path", ["/page/", "/page/vendor", "/page/nothing.js", "/page/%00", "/page/" + "a" * 300, "/page/..%2f__init__.py",
             "/page/%2e%2e/settings.py", "/page//etc/passwd"],
)  # fmt: skip
async def test_nothing_but_the_page_s_files_is_there(http: httpx.AsyncClient, path: str) -> None:
    reply = await http.get(path)
    assert reply.status_code == 404
    assert reply.json()["error"]["message"]


def test_the_libraries_are_those_that_their_authors_published() -> None:
    vendor = PAGE / "vendor"
    named = dict(re.findall(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", (vendor / "README.md").read_text(), re.MULTILINE))
    present = {path.name for path in vendor.iterdir()} - {"README.md"}
    assert present == set(named)
    assert {name: hashlib.sha256((vendor / name).read_bytes()).hexdigest() for name in named} == named


def test_the_document_has_no_script_or_style_in_it_and_names_files_that_are_there() -> None:
    document = (PAGE / "index.html").read_text()
    # a link to the documentation is followed by whoever clicks on it, and tells the other side nothing of this page
    here = r"https://github\.com/splitlearn/splitlearn/blob/main/"
    link = rf'<a href="{here}(docs/[^"]+)" target="_blank" rel="noopener noreferrer">'
    assert [(ROOT / path).is_file() for path in re.findall(link, document)] == [True]
    document = re.sub(link, "", document)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)|javascript:|https?:", document)
    for name in re.findall(r'(?:src|href)="([^"]+)"', document):
        assert (PAGE.parent / name).is_file()


@pytest.mark.parametrize("module", OURS, ids=lambda path: path.name)
def test_a_module_makes_no_html_of_text_and_imports_files_that_are_there(module: Path) -> None:
    source = module.read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://", source
    )
    for name in re.findall(r'from "([^"]+)"', source):
        assert (PAGE / name).is_file()
    assert len(source.splitlines()) <= 400
