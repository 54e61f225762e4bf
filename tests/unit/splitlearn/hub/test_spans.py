from hypothesis import given
from hypothesis import strategies as st

from splitlearn.hub.headers import Located
from splitlearn.hub.spans import Span, pieces_of, spans_of


def located(file: str, start: int, end: int) -> Located:
    return Located(file, f"{file}.{start}", "U8", (end - start,), start, end)


def test_tensors_that_lie_next_to_each_other_are_one_request_and_gaps_are_not_fetched() -> None:
    tensors = [located("a", 20, 30), located("a", 8, 20), located("a", 31, 40), located("b", 40, 50)]
    assert spans_of(tensors) == [Span("a", 8, 30), Span("a", 31, 40), Span("b", 40, 50)]


def test_tensors_without_bytes_need_no_request() -> None:
    assert spans_of([located("a", 8, 8)]) == []


def test_long_spans_are_fetched_in_pieces() -> None:
    pieces = pieces_of([Span("a", 0, 10), Span("b", 5, 8)], 4)
    assert list(pieces) == [Span("a", 0, 4), Span("a", 4, 8), Span("a", 8, 10), Span("b", 5, 8)]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(0, 20))), st.integers(1, 9))
def test_exactly_the_tensors_bytes_are_fetched_and_each_once(places: list[tuple[str, int, int]], most: int) -> None:
    tensors = [located(file, start, start + size) for file, start, size in places]
    wanted = {(each.file, at) for each in tensors for at in range(each.start, each.end)}
    pieces = list(pieces_of(spans_of(tensors), most))
    fetched = [(piece.file, at) for piece in pieces for at in range(piece.start, piece.end)]
    assert len(fetched) == len(set(fetched))
    assert set(fetched) == wanted
    assert all(0 < piece.size <= most for piece in pieces)
