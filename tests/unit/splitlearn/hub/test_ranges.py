"""Range requests against a hub that does what it should, and everything that it should not."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import save

from splitlearn.errors import BadDownload, FetchStopped, HubRefused, HubUnreachable
from splitlearn.hub.listing import Hub, HubFile
from splitlearn.hub.names import ModelName
from splitlearn.hub.patience import Patience
from splitlearn.hub.ranges import RangeReader
from splitlearn.hub.stopping import Stop
from support.loopback_hub import Asked, Fault, LoopbackHub

DATA = save({"a": torch.arange(60, dtype=torch.uint8)})
FILE = "model.safetensors"


@pytest.fixture
def commit(served: LoopbackHub) -> str:
    return served.add_files("org/small", {FILE: DATA})


@pytest.fixture
def listed(hub: Hub, commit: str) -> HubFile:
    return hub.list(ModelName("org/small")).files[FILE]


@pytest.fixture
def reader(hub: Hub, commit: str) -> Iterator[RangeReader]:
    def url(file: str) -> str:
        return hub.url("org/small", commit, file)

    with RangeReader("org/small", commit, url, hub.headers(), Patience(most=3, first=0.001)) as reader:
        yield reader


def read(reader: RangeReader, listed: HubFile, start: int = 0, end: int = len(DATA)) -> bytes:
    collected = bytearray()
    reader.read(listed, start, end, collected.extend, Stop())
    return bytes(collected)


def of_storage(fault: Fault | Callable[[Asked], Fault | None]) -> Callable[[Asked], Fault | None]:
    """Spoils what the second server sends."""

    def script(asked: Asked) -> Fault | None:
        if asked.server != "storage":
            return None
        return fault if isinstance(fault, Fault) else fault(asked)

    return script


def test_exactly_the_range_is_asked_for_and_sent(served: LoopbackHub, reader: RangeReader, listed: HubFile) -> None:
    assert read(reader, listed, 10, 30) == DATA[10:30]
    assert served.sent == [(FILE, 10, 30)]


def test_a_line_that_breaks_at_every_offset_costs_no_byte_twice(
    served: LoopbackHub, reader: RangeReader, listed: HubFile
) -> None:
    served.script = of_storage(Fault(cut_after=1))
    assert read(reader, listed) == DATA
    assert served.sent == [(FILE, at, at + 1) for at in range(len(DATA))]


@pytest.mark.parametrize("announced", [True, False])
def test_an_answer_that_ends_too_early_goes_on_where_it_broke(
    served: LoopbackHub, reader: RangeReader, listed: HubFile, announced: bool
) -> None:
    faults = [Fault(cut_after=0, announced=announced), Fault(cut_after=17, announced=announced)]
    served.script = of_storage(lambda _: faults.pop(0) if faults else None)
    assert read(reader, listed) == DATA
    assert served.sent == [(FILE, 0, 0), (FILE, 0, 17), (FILE, 17, len(DATA))]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_a_busy_hub_is_asked_again(served: LoopbackHub, reader: RangeReader, listed: HubFile, status: int) -> None:
    faults = [Fault(status=status, headers={"Retry-After": "0"}), Fault(status=status)]
    served.script = lambda asked: faults.pop() if faults else None
    assert read(reader, listed) == DATA


def test_a_hub_that_never_gets_better_is_given_up_with_what_it_said(
    served: LoopbackHub, reader: RangeReader, listed: HubFile
) -> None:
    served.script = lambda _: Fault(status=503)
    with pytest.raises(HubUnreachable, match=r"org/small: model.safetensors .* answered 503; .*try again"):
        read(reader, listed)
    assert len([each for each in served.asked if each.bytes]) == 3


@pytest.mark.parametrize("announced", [True, False])
def test_a_line_that_breaks_without_a_byte_each_time_is_given_up(
    served: LoopbackHub, reader: RangeReader, listed: HubFile, announced: bool
) -> None:
    def script(asked: Asked) -> Fault:
        return Fault(cut_after=5 if asked.bytes == (0, len(DATA)) else 0, announced=announced)

    served.script = of_storage(script)
    with pytest.raises(HubUnreachable):
        read(reader, listed)


WRONG: dict[str, tuple[Fault, str]] = {
    "more than asked, announced": (Fault(replaced=DATA + b"more"), "announces"),
    "more than asked, unannounced": (Fault(extra=b"more", announced=False), "more than it was asked for"),
    "less than asked, announced": (Fault(replaced=DATA[:-1]), "announces"),
    "the whole file": (Fault(status=200), "answered 200 in place of a range"),
    "no such bytes": (Fault(status=416), "has no bytes 0-"),
    "a redirect that leads nowhere": (Fault(status=304), "answered 304"),
    "other bytes": (Fault(headers={"Content-Range": f"bytes 1-{len(DATA)}/{len(DATA)}"}), "the hub sends 'bytes 1-"),
    "a longer file": (Fault(headers={"Content-Range": f"bytes 0-{len(DATA) - 1}/9999"}), "/9999'"),
    "an unknown length": (Fault(headers={"Content-Range": f"bytes 0-{len(DATA) - 1}/*"}), "the hub sends"),
    "no range": (Fault(headers={"Content-Range": None}), "the hub sends None"),
    "an encoding": (Fault(headers={"Content-Encoding": "gzip"}), "encoded"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_answer_with_anything_else_than_the_range_is_refused_at_once(
    served: LoopbackHub, reader: RangeReader, listed: HubFile, case: str
) -> None:
    fault, message = WRONG[case]
    served.script = of_storage(fault)
    with pytest.raises(BadDownload, match=f"org/small: model.safetensors: .*{message}"):
        read(reader, listed)
    assert len([each for each in served.asked if each.server == "storage"]) == 1


ELSEWHERE: dict[str, tuple[dict[str, str | None], str]] = {
    "another revision": ({"X-Repo-Commit": "b" * 40}, "another revision"),
    "no revision": ({"X-Repo-Commit": None}, r"another revision \(none\)"),
    "another file": ({"X-Linked-ETag": '"' + "c" * 64 + '"'}, "other bytes: ETag ccc"),
    "no ETag": ({"X-Linked-ETag": None}, "other bytes: ETag , not"),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_an_answer_of_another_revision_or_file_is_refused(
    served: LoopbackHub, reader: RangeReader, listed: HubFile, case: str
) -> None:
    headers, message = ELSEWHERE[case]
    served.script = lambda asked: Fault(headers=headers) if asked.server == "hub" else None
    with pytest.raises(BadDownload, match=message):
        read(reader, listed)


def test_a_file_that_changes_where_it_is_stored_is_refused(
    served: LoopbackHub, reader: RangeReader, listed: HubFile
) -> None:
    etags = iter(('"one"', '"two"'))
    served.script = of_storage(lambda _: Fault(headers={"ETag": next(etags)}, cut_after=9))
    with pytest.raises(BadDownload, match="it changed while it was fetched"):
        read(reader, listed)


def test_redirects_in_a_circle_end(served: LoopbackHub, reader: RangeReader, listed: HubFile) -> None:
    def script(asked: Asked) -> Fault | None:
        return Fault(headers={"Location": served.url + asked.path}) if asked.server == "hub" else None

    served.script = script
    with pytest.raises(BadDownload, match="in circles"):
        read(reader, listed)


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_a_gated_file_is_refused_with_what_to_do(
    served: LoopbackHub, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    commit = served.add_files("org/gated", {FILE: DATA}, token="hf_right")
    listed = hub.list(ModelName("org/gated")).files[FILE]
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with (
        RangeReader("org/gated", commit, lambda file: hub.url("org/gated", commit, file), hub.headers()) as reader,
        pytest.raises(HubRefused, match=r"org/gated: the hub refuses model.safetensors \(40[13]\): ask .*HF_TOKEN"),
    ):
        read(reader, listed)


def test_the_token_goes_to_the_hub_and_to_no_other_address(
    served: LoopbackHub, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    commit = served.add_files("org/gated", {FILE: DATA}, token="hf_right")
    listed = hub.list(ModelName("org/gated")).files[FILE]
    served.script = of_storage(Fault(cut_after=50))
    with RangeReader("org/gated", commit, lambda file: hub.url("org/gated", commit, file), hub.headers()) as reader:
        assert read(reader, listed) == DATA
    told: dict[str, set[Any]] = {"hub": set(), "storage": set()}
    for asked in served.asked:
        told[asked.server].add(asked.authorization)
    assert told == {"hub": {"Bearer hf_right"}, "storage": {None}}


def test_it_stops_while_it_waits_and_while_it_reads(
    served: LoopbackHub, hub: Hub, commit: str, listed: HubFile
) -> None:
    stop = Stop()
    with RangeReader("org/small", commit, lambda file: hub.url("org/small", commit, file), {}) as reader:
        with pytest.raises(FetchStopped):
            reader.read(listed, 0, len(DATA), lambda _: stop.set(), stop)
        waiting = Stop()
        asked = threading.Event()

        def script(_: Asked) -> Fault:
            asked.set()
            return Fault(status=429, headers={"Retry-After": "3600"})

        served.script = script
        threading.Thread(target=lambda: (asked.wait(), waiting.set())).start()
        with pytest.raises(FetchStopped):
            reader.read(listed, 0, len(DATA), lambda _: None, waiting)
