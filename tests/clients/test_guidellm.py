"""guidellm measures the service as it measures any other."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.clients.conftest import Plain
from tests.clients.environments import GUIDELLM

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
async def test_every_request_of_a_benchmark_succeeds_and_has_the_tokens_that_were_asked_for(
    plain: Plain, checkpoint: Path, tmp_path: Path, path: str
) -> None:
    GUIDELLM.make()
    out = tmp_path / "report.json"
    options = {
        "--backend": f"kind=openai_http,target={plain.url.rstrip('/')},request_format={path}",
        "--profile": "kind=concurrent,streams=2",
        "--constraint": "kind=max_requests,count=6",
        "--data": "kind=synthetic_text,prompt_tokens=16,output_tokens=8",
        "--tokenizer": f"kind=hf_auto,model={checkpoint}",
        "--output": f"kind=json,path={out}",
    }
    words = [word for option in options.items() for word in option]
    await asyncio.to_thread(GUIDELLM.run, ["-m", "guidellm", "run", *words, "--disable-console"])
    (benchmark,) = json.loads(out.read_text(encoding="utf-8"))["benchmarks"]
    requests = benchmark["requests"]
    assert requests["errored"] == requests["incomplete"] == []
    assert [request["output_tokens"] for request in requests["successful"]] == [8] * 6
    assert all(request["time_to_first_token_ms"] > 0 for request in requests["successful"])
