"""Counts against what the equations of each architecture ask for."""

from dataclasses import replace

import pytest

from cleangpt.config import GPTConfig
from cleangpt.model.parameter_counts import main, parameter_counts

V, T, L, H, D = 100, 32, 3, 4, 16
CONFIG = GPTConfig(block_size=T, vocab_size=V, n_layer=L, n_head=H, n_embd=D)
NORM, MLP = 2 * D, 8 * D * D + 5 * D


def test_counts_are_those_of_the_equations() -> None:
    counts = parameter_counts(CONFIG)
    assert counts["Vanilla"].layers == L * (2 * NORM + 4 * (D * D + D) + MLP)
    assert counts["SASP"].layers == L * (NORM + 3 * (D * D + D) + 3 * H + MLP + 1)
    assert counts["Factored"].layers == L * (2 * NORM + 2 * (D * D + D) + 2 * H * H + MLP)
    assert counts["FactoredALiBi"].layers == counts["Factored"].layers
    assert counts["Vanilla"].embeddings == (V + T) * D
    assert counts["FactoredALiBi"].embeddings == V * D
    assert all(count.total == count.embeddings + count.layers + NORM for count in counts.values())


def test_the_width_inside_the_mlp_can_be_chosen() -> None:
    narrow = parameter_counts(replace(CONFIG, n_inner=D))["Vanilla"].layers
    assert parameter_counts(CONFIG)["Vanilla"].layers - narrow == L * (6 * D * D + 3 * D)


def test_the_command_prints_all_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--n_layer", "2", "--n_embd", "12", "--n_head", "3", "--vocab_size", "50", "--block_size", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["Vanilla", "SASP", "Factored", "FactoredALiBi"]
    assert "100.0%" in lines[2]


def test_sizes_that_cannot_be_end_the_command_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--n_embd", "10", "--n_head", "3"])
    assert end.value.code == 2
    assert "n_embd=10 and n_head=3" in capsys.readouterr().err
