"""API keys, tenants and quotas: through the `openai` package, a real HTTP server, and real trunks."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, AuthenticationError, RateLimitError
from structlog.testing import capture_logs

from splitlearn.engine import Engine, EngineSession
from splitlearn.engine.owners import Owner
from splitlearn_comm import file_changes
from support.client_process import becomes, client_process, refusal
from support.running_split import (
    PATIENCE,
    RunningClient,
    RunningTrunk,
    Split,
    busy,
    free_port,
    running_client,
    running_split,
    running_trunk,
    until,
)

ALICE, BOB, OPERATOR = "sk-alice-4b1f8c26d9", "sk-bob-90aa217c3e55", "sk-operator-77e0d3"
KEYS = (ALICE, BOB, OPERATOR)
FILE = f"""
[alice]
keys = ["sha256:{sha256(ALICE.encode()).hexdigest()}"]
{{}}

[bob]
keys = ["{BOB}"]
"""
# three blocks, which the tiny model's trunk may cache
LONG = list(range(3, 3 + 100))


def write(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


@pytest.fixture
def tenants(tmp_path: Path) -> Path:
    write(tmp_path / "tenants.toml", FILE.format(""))
    return tmp_path / "tenants.toml"


@pytest.fixture
async def split(tiny_weights: Path, tenants: Path) -> AsyncIterator[Split]:
    async with running_split(tiny_weights, tenants=tenants, api_key=OPERATOR, protect_metrics=True) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def ask(client: RunningClient, key: str, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "temperature": 0, "max_tokens": 4, "prompt": LONG, **fields}
    return await client.http.post("/v1/completions", json=body, headers=bearer(key))


def with_key(client: RunningClient, key: str) -> AsyncOpenAI:
    return client.openai.with_options(api_key=key)


# --- keys ------------------------------------------------------------------------------------------------------------


async def test_the_openai_package_is_let_in_with_a_key_and_refused_with_another(split: Split) -> None:
    for key in KEYS:
        openai = with_key(split.client, key)
        assert [model.id async for model in openai.models.list()] == ["tiny"]
        answer = await openai.completions.create(model="tiny", prompt="the quick", max_tokens=2)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 2
    for wrong in ("sk-nobodys", ALICE[:-1], f"sha256:{sha256(ALICE.encode()).hexdigest()}"):
        with pytest.raises(AuthenticationError) as refused:
            await with_key(split.client, wrong).completions.create(model="tiny", prompt="the quick")
        assert (refused.value.code, refused.value.type) == ("invalid_api_key", "invalid_request_error")
        assert refused.value.response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert split.client.value("refusals_total", code="invalid_api_key", tenant="") == 3


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
async def test_a_stranger_is_refused_before_a_byte_of_the_body_is_sent(split: Split, expects: bytes) -> None:
    url = split.client.http.base_url
    async with AsyncExitStack() as stack:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        stack.callback(writer.transport.abort)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer sk-nobodys\r\nContent-Length: 1000000\r\n" + expects + b"\r\n"
        )
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
    assert refusal(answer) == (401, "invalid_api_key")


async def test_probes_and_the_page_need_no_key_and_protected_metrics_the_operators(split: Split) -> None:
    http = split.client.http
    for path in ("/", "/health", "/ready"):
        assert (await http.get(path)).status_code == 200
    assert (await http.get("/metrics")).status_code == 401
    refused = await http.get("/metrics", headers=bearer(ALICE))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert (await http.get("/metrics", headers=bearer(OPERATOR))).status_code == 200
    assert (await http.get("/nothing/here")).status_code == 401


async def test_a_page_of_an_allowed_origin_may_send_a_key(tiny_weights: Path) -> None:
    page = "https://chat.example.org"
    async with running_client(
        tiny_weights, f"127.0.0.1:{free_port()}", api_key=OPERATOR, allowed_origins=page
    ) as client:
        asked = {"Origin": page, "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "authorization,content-type"
        preflight = await client.http.options("/v1/completions", headers=asked)
        assert preflight.status_code == 200
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        # and learns why it is refused
        refused = await client.http.post("/v1/completions", json={}, headers={"Origin": page})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, page)


async def test_keys_change_with_the_file_while_an_old_ones_stream_goes_on(
    split: Split, tenants: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_changes, "LOOK_SECONDS", 0.01)
    old, new = with_key(split.client, BOB), with_key(split.client, "sk-bobs-new-key-7c1d")
    stream = await old.completions.create(model="tiny", prompt="the quick", max_tokens=30, temperature=0, stream=True)
    first = await anext(aiter(stream))
    write(tenants, FILE.format("").replace(BOB, "sk-bobs-new-key-7c1d"))

    async def is_valid(openai: AsyncOpenAI) -> bool:
        try:
            await openai.models.list()
        except AuthenticationError:
            return False
        return True

    await becomes(lambda: is_valid(new))
    assert not await is_valid(old)
    assert await is_valid(with_key(split.client, ALICE))
    assert [first, *[chunk async for chunk in stream]][-1].choices[0].finish_reason == "length"


def everything_said(lines: list[dict[str, Any]], *texts: str) -> str:
    return json.dumps(lines) + "".join(texts)


async def test_no_key_appears_in_a_log_or_an_error(tiny_weights: Path, tenants: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    texts = []
    async with client_process(tiny_weights, nobody, "--api-key", OPERATOR, "--tenants", tenants) as process:
        async with httpx.AsyncClient(base_url=process.url, timeout=PATIENCE, trust_env=False) as http:
            for key in (*KEYS, "sk-nobodys-key"):
                for path in ("/v1/completions", "/v1/models", "/metrics", f"/nothing?api_key={key}"):
                    for body in ({"model": "tiny", "prompt": "x"}, {"model": "tiny", "api_key": 7}):
                        answer = await http.post(path, json=body, headers=bearer(key))
                        texts.append(answer.text + str(answer.headers))
        write(tenants, f'[alice]\nkeys = ["{BOB}", "{ALICE}"')
        await until(lambda: any("the old content stays" in line["event"] for line in process.lines))
    requests = [line for line in process.lines if line["event"] in ("request", "request refused")]
    assert len(requests) == 4 * 4 * 2
    # the trunk is missing, so what is let in is refused too
    names = Counter(line.get("tenant") for line in requests if line.get("code") == "trunk_not_ready")
    assert names == {"alice": 1, "bob": 1, None: 1}
    found = everything_said(process.lines, *texts)
    hashes = [sha256(key.encode()).hexdigest() for key in KEYS]
    assert [key for key in (*KEYS, "sk-nobodys-key", *hashes) if key in found] == []


@pytest.mark.parametrize("flags", [("--api-key", f"{ALICE} {BOB}"), ("--api-key", ALICE, "--port", "http")])
def test_a_service_that_does_not_start_tells_no_key(tiny_weights: Path, flags: tuple[str, ...]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "splitlearn_cli", "--debug", "client", tiny_weights, *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "splitlearn: error: --" in ended.stderr
    assert ALICE not in ended.stdout + ended.stderr


# --- tenants ---------------------------------------------------------------------------------------------------------


async def test_tenants_share_no_cached_prefix(split: Split) -> None:
    async def cached(key: str) -> int:
        # the trunk caches a session's rows after its answer has ended
        before = split.trunk.trunk.engine.n_cached_prefixes
        body = (await ask(split.client, key)).json()
        hits = int(body["usage"]["prompt_tokens_details"]["cached_tokens"])
        if not hits:
            await until(lambda: split.trunk.trunk.engine.n_cached_prefixes > before)
        return hits

    n_full_blocks = 96
    assert [await cached(key) for key in (ALICE, ALICE, BOB, BOB, OPERATOR)] == [0, n_full_blocks, 0, n_full_blocks, 0]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Engine, Owner]]:
    """Every session that any engine opens: the engine, and whose it is."""
    found: list[tuple[Engine, Owner]] = []
    real = Engine.open

    def recording(engine: Engine, *args: Any, **kwargs: Any) -> EngineSession:
        session = real(engine, *args, **kwargs)
        found.append((engine, session.owner))
        return session

    monkeypatch.setattr(Engine, "open", recording)
    return found


@asynccontextmanager
async def workers(weights: Path, layers: list[str]) -> AsyncIterator[list[RunningTrunk]]:
    async with AsyncExitStack() as stack:
        stages: list[RunningTrunk] = []
        for each in reversed(layers):
            link = {"next": stages[0].address} if stages else {}
            stages.insert(0, await stack.enter_async_context(running_trunk(weights, each, **link)))
        yield stages


@pytest.mark.parametrize("layers", [["1-4"], ["1-2", "2-4"]])
async def test_every_engine_learns_an_opaque_id_of_whose_a_session_is(
    tiny_weights: Path, tenants: Path, layers: list[str], opened: list[tuple[Engine, Owner]]
) -> None:
    ids: list[dict[str, str]] = []
    async with workers(tiny_weights, layers) as stages:
        # another client process has the same tenants, and other ids
        for _ in range(2):
            async with running_client(tiny_weights, stages[0].address, tenants=tenants, api_key=OPERATOR) as client:
                await client.ready()
                found = {}
                for key in KEYS:
                    opened.clear()
                    for _ in range(2):
                        assert (await ask(client, key)).status_code == 200
                    parts = client.service.connection.local_parts
                    engines = [parts.bottom, *(stage.trunk.engine for stage in stages), parts.top]
                    assert Counter(engine for engine, _ in opened) == dict.fromkeys(engines, 2)
                    (found[key],) = {owner[-1] for _, owner in opened}
                ids.append(found)
    assert ids[0][OPERATOR] == ids[1][OPERATOR] == ""
    named = {each[key] for each in ids for key in (ALICE, BOB)}
    assert len(named) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", tenant) for tenant in named)


async def test_each_stage_tells_apart_the_clients_of_the_first_one(
    tiny_weights: Path, tmp_path: Path, opened: list[tuple[Engine, Owner]]
) -> None:
    """The second stage has one client, the first stage. Both have several if tokens have several names."""
    (tmp_path / "tokens").write_text("web the-token-of-web-0\nlab the-token-of-lab-0\n")
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(running_trunk(tiny_weights, "2-4", token="the-token-of-stages"))
        chained = {"next": second.address, "next_token": "the-token-of-stages", "token_file": tmp_path / "tokens"}
        first = await stack.enter_async_context(running_trunk(tiny_weights, "1-2", **chained))
        for name in ("web", "lab"):
            token = f"the-token-of-{name}-0"
            client = await stack.enter_async_context(running_client(tiny_weights, first.address, trunk_token=token))
            await client.ready()
            assert (await ask(client, ALICE)).status_code == 200
        owners = [[owner for engine, owner in opened if engine is each.trunk.engine] for each in (first, second)]
    assert [identity for identity, _, _ in owners[0]] == ["token web", "token lab"]
    # the stage is one client there, whose two clients take turns inside its own
    assert {identity for identity, _, _ in owners[1]} == {"token default"}
    assert len({passed_on_for for _, passed_on_for, _ in owners[1]}) == 2
    assert [tenant for _, _, tenant in owners[1]] == [tenant for _, _, tenant in owners[0]]


def of_requests(lines: Sequence[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    """Those of the access log."""
    return [line for line in lines if line["event"] in ("request", "request refused")]


async def test_log_lines_and_metrics_name_the_tenant(split: Split) -> None:
    with capture_logs() as lines:
        for key, n_tokens in ((ALICE, 2), (ALICE, 3), (BOB, 4), (OPERATOR, 5)):
            assert (await ask(split.client, key, max_tokens=n_tokens)).status_code == 200
        assert (await ask(split.client, BOB, n=200)).status_code == 400
        await until(lambda: len(of_requests(lines)) == 5)
    named = [line.get("tenant") for line in of_requests(lines)]
    assert named == ["alice", "alice", "bob", None, "bob"]
    value = split.client.value
    assert [value("tenant_requests_total", tenant=name) for name in ("alice", "bob", "")] == [2, 2, 1]
    generated = [value("tenant_tokens_total", tenant=name, kind="generation") for name in ("alice", "bob", "")]
    assert generated == [5, 4, 5]
    assert value("tenant_tokens_total", tenant="alice", kind="prompt") == 2 * len(LONG)
    assert value("refusals_total", code="invalid_value", tenant="bob") == 1


# --- quotas ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def limits(request: pytest.FixtureRequest, tenants: Path) -> None:
    write(tenants, FILE.format(request.param))


@pytest.mark.parametrize("limits", ["max_parallel_requests = 1"], indirect=True)
async def test_a_tenant_at_its_quota_gets_429_while_another_goes_on(limits: None, split: Split) -> None:
    client = split.client
    async with busy(split.trunk):
        running = asyncio.create_task(ask(client, ALICE))
        await until(lambda: client.value("num_requests_running") == 1)
        for _ in range(3):
            with pytest.raises(RateLimitError) as refused:
                await with_key(client, ALICE).completions.create(model="tiny", prompt="the quick")
            assert refused.value.code == "rate_limit_exceeded"
            assert int(refused.value.response.headers["retry-after"]) >= 1
        other = asyncio.create_task(ask(client, BOB))
        await until(lambda: client.value("num_requests_running") == 2)
    assert (await running).status_code == (await other).status_code == 200
    assert (await ask(client, ALICE)).status_code == 200
    assert client.value("refusals_total", code="rate_limit_exceeded", tenant="alice") == 3
    assert client.value("tenant_requests_total", tenant="alice") == 2


@pytest.mark.parametrize("limits", ["max_parallel_requests = 1"], indirect=True)
async def test_a_caller_that_hangs_up_gives_its_place_back(limits: None, split: Split) -> None:
    async with busy(split.trunk):
        hanging_up = asyncio.create_task(ask(split.client, ALICE))
        await until(lambda: split.client.value("num_requests_running") == 1)
        hanging_up.cancel()
        await until(lambda: split.client.value("num_requests_running") == 0)
    assert (await ask(split.client, ALICE)).status_code == 200


@pytest.mark.parametrize(
    ("limits", "n_answered"), [("rpm_limit = 3", 3), (f"tpm_limit = {2 * len(LONG)}", 2)], indirect=["limits"]
)
async def test_requests_and_tokens_per_minute_are_bounded(limits: None, n_answered: int, split: Split) -> None:
    began = time.monotonic()
    answers = [await ask(split.client, ALICE) for _ in range(n_answered + 2)]
    took = time.monotonic() - began
    statuses = [answer.status_code for answer in answers]
    assert statuses[:n_answered] == [200] * n_answered
    # a minute's limit comes back evenly, so a machine that takes this long would have earned another request
    if took < 10:
        assert statuses[n_answered:] == [429, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert "the quota of alice is used up: at most" in answers[-1].json()["error"]["message"]
    assert (await ask(split.client, BOB)).status_code == 200
