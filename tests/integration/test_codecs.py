"""What a codec changes of a generation: the bytes on the wire, and the answer only as far as it rounds."""

from pathlib import Path
from typing import Any

import pytest

from splitlearn_comm.core import CODECS
from support.far_link import Network, far_link
from support.running_split import RunningTrunk, running_client, running_trunk

PROMPT = [3, 5, 8, 13, 21, 34]
N = 12


async def generated(weights: Path, trunk: RunningTrunk, codec: str) -> dict[str, Any]:
    """The reply, and the log-probability of its first token, which no rounding has moved far."""
    async with running_client(weights, trunk.address, wire_codec=codec) as client:
        await client.ready()
        response = await client.complete(prompt=PROMPT, max_tokens=N, logprobs=1)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_exact_codecs_change_nothing_and_rounding_ones_little_but_the_bytes(tiny_weights: Path) -> None:
    async with running_trunk(tiny_weights) as trunk:
        replies = {codec: await generated(tiny_weights, trunk, codec) for codec in CODECS}

    def first_logprob(codec: str) -> float:
        return float(replies[codec]["choices"][0]["logprobs"]["token_logprobs"][0])

    def wire_bytes(codec: str) -> int:
        extra = replies[codec]["splitlearn"]
        return int(extra["wire_bytes_sent"] + extra["wire_bytes_received"])

    assert replies["zlib"]["choices"][0]["text"] == replies["none"]["choices"][0]["text"]
    for codec in ("bf16", "fp16", "int8"):
        assert first_logprob(codec) == pytest.approx(first_logprob("none"), abs=0.05)
        assert wire_bytes(codec) < 0.75 * wire_bytes("none")
    for codec in CODECS:
        counted = sum(trunk.value("wire_bytes_total", direction=way, codec=codec) for way in ("received", "sent"))
        assert counted == wire_bytes(codec)


# of 20,000 bytes a second, where a prompt takes 1.5 s in each direction
SLOW = Network(0.0, up=2e4, down=2e4)


async def test_auto_rounds_rows_once_the_link_has_shown_to_be_slower_than_the_trunk(tiny_weights: Path) -> None:
    async with (
        running_trunk(tiny_weights) as trunk,
        far_link(int(trunk.address.rpartition(":")[2]), SLOW) as link,
        running_client(tiny_weights, link.address, wire_codec="auto") as client,
    ):
        await client.ready()
        replies = [await client.complete(prompt=list(range(start, start + 117)), max_tokens=2) for start in (3, 4, 5)]
        told = [reply.json()["splitlearn"] for reply in replies]
        first, second, third = (each["wire_bytes_sent"] + each["wire_bytes_received"] for each in told)
        # nothing is known of the link before the first answer
        assert max(second, third) < 0.6 * first
        assert client.value("wire_bytes_total", direction="sent", codec="none") == told[0]["wire_bytes_sent"]
