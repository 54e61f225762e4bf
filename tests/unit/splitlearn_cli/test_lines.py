from splitlearn_cli.lines import Lines


def test_lines_are_put_together_from_pieces_of_any_size() -> None:
    data = "data: ä\r\n\ndata: b\nrest".encode()

    for size in range(1, len(data)):
        lines = Lines()
        cut = [data[at : at + size] for at in range(0, len(data), size)]
        assert [found for piece in cut for found in lines.feed(piece)] == ["data: ä\r".encode(), b"", b"data: b"]


def test_separators_of_other_kinds_stay_inside_their_line() -> None:
    assert list(Lines().feed("data: a\u2028b\x85c\n".encode())) == ["data: a\u2028b\x85c".encode()]
