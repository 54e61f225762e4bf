import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitlearn_cli.chat.blocks import Blocks

TEXT = "# Title\n\na paragraph\nof two lines\n\n```python\na = 1\n\n# ```\nb = 2\n```\n- one\n- two\n\n\nthe end"
BLOCKS = ["# Title\n\n", "a paragraph\nof two lines\n\n", "```python\na = 1\n\n# ```\nb = 2\n```\n", "- one\n- two\n\n"]


@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=9).map(sorted))
def test_the_blocks_are_the_same_however_the_text_arrives(cuts: list[int]) -> None:
    it = Blocks()
    found = [
        block for begin, end in zip([0, *cuts], [*cuts, len(TEXT)], strict=True) for block in it.add(TEXT[begin:end])
    ]
    assert found == BLOCKS
    assert it.end() == "the end"
    assert it.pending == ""


@pytest.mark.parametrize(
    ("text", "blocks", "rest"),
    [
        ("~~~~\n~~~\n\n~~~~\nafter", ["~~~~\n~~~\n\n~~~~\n"], "after"),
        ("```\n\nno end\n\n", [], "```\n\nno end\n\n"),
        ("``` one line ```\n\n", ["``` one line ```\n\n"], ""),
        ("\n\n\n", [], ""),
        ("    ```\n\nafter", ["    ```\n\n"], "after"),
    ],
)
def test_a_fence_keeps_its_blank_lines(text: str, blocks: list[str], rest: str) -> None:
    it = Blocks()
    assert it.add(text) == blocks
    assert it.end() == rest


@given(pieces=st.lists(st.text("ab `~\n", max_size=6)))
def test_nothing_but_blank_blocks_is_lost(pieces: list[str]) -> None:
    it = Blocks()
    found = "".join(block for piece in pieces for block in it.add(piece)) + it.end()
    assert found.split() == "".join(pieces).split()
