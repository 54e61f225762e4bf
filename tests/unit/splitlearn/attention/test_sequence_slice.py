from splitlearn.attention.sequence_slice import SequenceSlice


def test_a_slice_ends_where_the_next_rows_of_its_session_begin() -> None:
    assert SequenceSlice("kv", 5, 3).end == 8
