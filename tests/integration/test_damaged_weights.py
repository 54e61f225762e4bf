"""Files that are not what was converted: nobody is answered from them, and the file is named."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import llm_sepweight.verification
from llm_sepweight import Manifest, SepweightError, WrongDigestError
from splitlearn_comm import FingerprintMismatch, Frame, SessionOpening
from support.running_split import RunningTrunk, running_client, running_trunk, until

D = 64
PROMPT = "the quick brown fox"


@pytest.fixture
def weights(tiny_weights: Path, tmp_path: Path) -> Path:
    """A directory of its own, to be damaged."""
    return Path(shutil.copytree(tiny_weights, tmp_path / "weights"))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set no byte is compared, and nobody waits for that: as with files that take long to read."""
    gate, chunks = threading.Event(), llm_sepweight.verification.checked_chunks

    def gated(*words: Any) -> Iterator[memoryview]:
        gate.wait()
        yield from chunks(*words)

    monkeypatch.setattr("llm_sepweight.verification.checked_chunks", gated)
    for service in ("splitlearn_trunk", "splitlearn_client"):
        monkeypatch.setattr(f"{service}.verification.QUICK", 0.0)
    yield gate
    gate.set()


def flip(file: Path, at: int = -1) -> None:
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)


def swap(one: Path, other: Path) -> None:
    between = one.with_suffix(".between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


async def a_session_of(trunk: RunningTrunk) -> None:
    async with trunk.client.stream(SessionOpening("test", trunk.fingerprint, 16)) as stream:
        await stream.step(Frame(0, torch.zeros(1, D)))


async def test_a_trunk_of_whole_files_says_that_it_has_compared_them(weights: Path) -> None:
    async with running_trunk(weights) as trunk:
        assert (trunk.value("weights_verified"), trunk.value("weights_damaged")) == (1, 0)


async def test_a_trunk_does_not_start_with_a_flipped_bit_unless_verification_is_off(weights: Path) -> None:
    flip(weights / "mid.00002.safetensors")
    for verify in ("auto", "always"):
        with pytest.raises(WrongDigestError, match=r"mid\.00002\.safetensors: expected sha256"):
            async with running_trunk(weights, verify=verify):
                pass
    async with running_trunk(weights, verify="never") as trunk:
        await a_session_of(trunk)
        assert trunk.value("weights_verified") == 0
    # not its own file
    async with running_trunk(weights, "1-2"):
        pass


async def test_a_trunk_does_not_start_with_two_layers_in_each_other_s_place(weights: Path) -> None:
    swap(weights / "mid.00001.safetensors", weights / "mid.00002.safetensors")
    with pytest.raises(WrongDigestError, match=r"mid\.00001\.safetensors"):
        async with running_trunk(weights):
            pass


async def test_a_trunk_that_finds_out_while_it_serves_stops_to(weights: Path, gate: threading.Event) -> None:
    flip(weights / "mid.00002.safetensors")
    async with running_trunk(weights) as trunk, running_client(weights, trunk.address) as client:
        await client.ready()
        assert (await client.complete(prompt=PROMPT, max_tokens=2)).status_code == 200
        assert await trunk.client.health()
        stream = trunk.client.stream(SessionOpening("test", trunk.fingerprint, 16))
        async with stream:
            await stream.step(Frame(0, torch.zeros(1, D)))

            gate.set()
            await until(lambda: trunk.value("weights_damaged") == 1)
            with pytest.raises(FingerprintMismatch, match="damaged"):
                await stream.step(Frame(1, torch.zeros(1, D)))
        assert not await trunk.client.health()
        with pytest.raises(FingerprintMismatch, match=r"damaged: mid\.00002\.safetensors"):
            await a_session_of(trunk)
        await until(lambda: not client.is_ready)
        told = (await client.http.get("/ready")).json()
        assert told["passes"] is False
        reason = told["reason"]
        assert "mid.00002.safetensors" in reason
        assert str(weights) not in reason
        assert (await client.complete(prompt=PROMPT)).status_code == 503


async def test_a_trunk_that_finds_nothing_while_it_serves_says_so(weights: Path, gate: threading.Event) -> None:
    async with running_trunk(weights) as trunk:
        assert trunk.value("weights_verified") == 0
        gate.set()
        await until(lambda: trunk.value("weights_verified") == 1)
        assert await trunk.client.health()


async def test_a_trunk_that_ends_meanwhile_does_not_wait_for_the_check(weights: Path, gate: threading.Event) -> None:
    async with running_trunk(weights) as trunk:
        await a_session_of(trunk)
    assert not gate.is_set()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("begin.safetensors", flip),
        ("end.safetensors", flip),
        ("mid.00000.safetensors", lambda file: swap(file, file.with_name("mid.00004.safetensors"))),
    ],
)
async def test_a_client_whose_own_file_is_damaged_is_not_ready_until_it_is_mended(
    weights: Path, tiny_weights: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(weights / name)
    async with running_trunk(tiny_weights) as trunk, running_client(weights, trunk.address) as client:
        await until(lambda: name in (client.service.connection.not_ready_reason or ""))
        assert client.value("weights_damaged") == 1
        answer = await client.http.get("/ready")
        assert (answer.status_code, name in answer.json()["reason"]) == (503, True)
        assert answer.json()["passes"] is False
        assert (await client.complete(prompt=PROMPT)).status_code == 503
        for file in ("begin", "mid.00000", "mid.00004", "end"):
            shutil.copy(tiny_weights / f"{file}.safetensors", weights)
        await client.ready()
        assert (client.value("weights_verified"), client.value("weights_damaged")) == (1, 0)


async def test_a_client_that_finds_out_while_it_serves_stops_to(
    weights: Path, tiny_weights: Path, gate: threading.Event
) -> None:
    flip(weights / "begin.safetensors")
    async with running_trunk(tiny_weights) as trunk, running_client(weights, trunk.address) as client:
        await client.ready()
        assert client.value("weights_verified") == 0
        gate.set()
        await until(lambda: not client.is_ready)
        answer = await client.http.get("/ready")
        assert (answer.status_code, "begin.safetensors" in answer.json()["reason"]) == (503, True)
        assert answer.json()["passes"] is False
        assert (await client.complete(prompt=PROMPT)).status_code == 503
        assert client.value("weights_damaged") == 1


async def test_whatever_is_damaged_is_refused_by_one_of_the_two_with_its_name(
    tiny_weights: Path, tmp_path: Path
) -> None:
    seed = Random().randrange(10**6)
    print(f"seed {seed}")
    random = Random(seed)
    sections = [f"{section}.safetensors" for section in Manifest.read(tiny_weights).files]
    for number in range(10):
        damaged = Path(shutil.copytree(tiny_weights, tmp_path / str(number)))
        file = damaged / random.choice(sections)
        size = file.stat().st_size
        if random.random() < 0.3:
            with file.open("r+b") as whole:
                whole.truncate(random.randrange(size))
        else:
            # the header of a safetensors file is where a bit has most ways to be wrong
            flip(file, random.randrange(8 + 200 if random.random() < 0.5 else size))
        assert file.name in await complaint_about(damaged)


async def complaint_about(weights: Path) -> str:
    """What a trunk says that cannot start, or else a client beside it that is not ready."""
    try:
        async with running_trunk(weights) as trunk, running_client(weights, trunk.address) as client:
            await until(lambda: "safetensors" in (client.service.connection.not_ready_reason or ""))
            return str((await client.http.get("/ready")).json()["reason"])
    except SepweightError as error:
        return str(error)
