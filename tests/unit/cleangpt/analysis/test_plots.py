from pathlib import Path

import pytest

from cleangpt.analysis.plots import plot_usage
from cleangpt.analysis.usage import count_usage
from cleangpt.tokenizers import create_tokenizer


@pytest.mark.parametrize(("name", "begin"), [("tokens.png", b"\x89PNG"), ("tokens.svg", b"<?xml")])
def test_a_plot_is_written_in_the_format_of_its_name(
    answers: list[str], tmp_path: Path, name: str, begin: bytes
) -> None:
    tokenizer = create_tokenizer("bpe", texts=answers, vocab_size=600)
    plot_usage(count_usage(tokenizer, answers), tmp_path / "plots" / name, title="bpe on questions")
    assert (tmp_path / "plots" / name).read_bytes().startswith(begin)
