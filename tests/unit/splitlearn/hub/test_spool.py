from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from splitlearn.errors import FetchStopped, HubUnreachable
from splitlearn.hub.headers import header_bytes, tensors_in
from splitlearn.hub.spans import Span
from splitlearn.hub.spool import Spool
from splitlearn.hub.stopping import Stop

TENSORS = {
    "bf16": torch.arange(12).reshape(3, 4).to(torch.bfloat16),
    "bool": torch.tensor([True, False, True]),
    "f64": torch.arange(5, dtype=torch.float64),
    "none": torch.zeros(0, 3),
    "scalar": torch.tensor(7, dtype=torch.int64),
}
DATA = save(TENSORS)
LOCATED = {each.key: each for each in tensors_in(DATA[: header_bytes(DATA[:8], "f", len(DATA))], "f", len(DATA))}


class Fetched:
    """Stands for the hub: remembers what was asked for."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.fails: Callable[[Span], bool] = lambda span: False

    def __call__(self, span: Span, write: Callable[[bytes], object], stop: Stop) -> None:
        self.spans.append(span)
        write(DATA[span.start : span.start + 1])
        if self.fails(span):
            raise HubUnreachable("broken")
        stop.check()
        write(DATA[span.start + 1 : span.end])


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_tensors_come_out_as_they_were_stored_whatever_the_pieces_are(tmp_path: Path, piece_bytes: int) -> None:
    spool = Spool(tmp_path / "s", Fetched(), piece_bytes)
    told: list[int] = []
    spool.fetch(LOCATED.values(), told.append, Stop())
    assert sum(told) == sum(each.nbytes for each in TENSORS.values())
    for key, tensor in TENSORS.items():
        found = spool.tensor(LOCATED[key])
        assert found.dtype is tensor.dtype
        assert torch.equal(found, tensor)
    spool.remove()
    assert not (tmp_path / "s").exists()


def test_two_numbers_of_four_bits_are_one_of_torchs(tmp_path: Path) -> None:
    packed = torch.arange(6, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    data = save({"f4": packed})
    located = tensors_in(data[: header_bytes(data[:8], "f", len(data))], "f", len(data))[0]

    def read(span: Span, write: Callable[[bytes], object], _: Stop) -> None:
        write(data[span.start : span.end])

    found = Spool(tmp_path / "s", read).tensor(located)
    assert torch.equal(found.view(torch.uint8).reshape(-1), torch.arange(6, dtype=torch.uint8))


def test_whole_pieces_of_an_earlier_run_are_not_fetched_again_and_others_are(tmp_path: Path) -> None:
    first = Fetched()
    first.fails = lambda span: span.start >= LOCATED["f64"].start + 16
    with pytest.raises(HubUnreachable):
        Spool(tmp_path / "s", first, 8).fetch([LOCATED["f64"]], lambda _: None, Stop())
    assert not list((tmp_path / "s").glob("*.part"))
    kept = {path.name for path in (tmp_path / "s").iterdir()}
    second = Fetched()
    spool = Spool(tmp_path / "s", second, 8)
    told: list[int] = []
    spool.fetch([LOCATED["f64"]], told.append, Stop())
    assert sum(told) == 40
    assert len(second.spans) == 5 - len(kept)
    assert torch.equal(spool.tensor(LOCATED["f64"]), TENSORS["f64"])


def test_a_piece_of_another_length_is_not_taken_for_one(tmp_path: Path) -> None:
    tensor = LOCATED["f64"]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / f"f-{tensor.start}-{tensor.end}").write_bytes(b"short")
    (tmp_path / "s" / f"f-{tensor.start}-{tensor.end}.part").write_bytes(b"of a killed run")
    spool = Spool(tmp_path / "s", Fetched())
    spool.fetch([tensor], lambda _: None, Stop())
    assert torch.equal(spool.tensor(tensor), TENSORS["f64"])


def test_a_tensor_that_was_not_asked_for_before_is_fetched_when_it_is_read(tmp_path: Path) -> None:
    fetched = Fetched()
    spool = Spool(tmp_path / "s", fetched)
    spool.fetch([LOCATED["bool"]], lambda _: None, Stop())
    assert torch.equal(spool.tensor(LOCATED["bf16"]), TENSORS["bf16"])
    assert [span.size for span in fetched.spans] == [3, 24]


def test_the_first_failure_ends_the_others_and_is_what_is_told(tmp_path: Path) -> None:
    fetched = Fetched()
    fetched.fails = lambda span: span.start == LOCATED["f64"].start
    with pytest.raises(HubUnreachable, match="broken"):
        Spool(tmp_path / "s", fetched, 1).fetch([LOCATED["f64"]], lambda _: None, Stop())


def test_it_stops_and_keeps_whole_pieces(tmp_path: Path) -> None:
    stop = Stop()
    with pytest.raises(FetchStopped):
        Spool(tmp_path / "s", Fetched(), 8).fetch([LOCATED["f64"]], lambda _: stop.set(), stop)
    assert not list((tmp_path / "s").glob("*.part"))
