"""The anthropic package, in a process of its own and with the version of the lock file."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from splitlearn_client.api.anthropic import fields
from support.tool_templates import FAMILIES, family_weights
from tests.clients.conftest import Plain, served
from tests.clients.environments import AGREEING

pytestmark = pytest.mark.slow

KEY = "the-key-of-everybody-0123456789"
# what would change the answer whatever its value: only null is taken
ALWAYS_REFUSED = {"container", "diagnostics", "inference_geo", "toolset_name", "user_profile_id", "workspace_id"}


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[Plain]:
    """A service of a model whose template has tools, which asks for a key."""
    weights = family_weights(tmp_path, FAMILIES["hermes"])
    async with served(weights, "--api-key", KEY) as http:
        http.headers["Authorization"] = f"Bearer {KEY}"
        yield Plain(http)


async def test_anthropic(plain: Plain) -> None:
    AGREEING.make()
    text = await plain.chat("hello")
    found: dict[str, Any] = await asyncio.to_thread(AGREEING.ask, "with_anthropic.py", URL=plain.url, KEY=KEY)
    known = found.pop("fields")
    assert found.pop("counted") == found.pop("spent") > 0
    name, given, reason = found.pop("called")
    assert (name, given["n"] in (1, 2), reason) == ("f", True, "tool_use")
    assert found == {
        "text": text,
        "streamed": text,
        "reasons": ["max_tokens", "max_tokens"],
        "usage": [8, 8],
        "called_in_stream": [["f", given]],
        "after": "assistant",
        "refused": [[404, "not_found_error"], [400, "invalid_request_error"]],
    }
    for model, names in known.items():
        ours: type[fields.Fields] = getattr(fields, model)
        missing = set(names) - ours.names() - set(ours.neutral) - ALWAYS_REFUSED
        assert not missing, f"{model}: nobody decided about {missing}"
