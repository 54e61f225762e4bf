"""Counts against what the equations of each architecture ask for."""

from dataclasses import replace

import pytest

from cleangpt.config import GPTConfig
from cleangpt.errors import ModelOptionError
from cleangpt.model.parameter_counts import main, parameter_count, parameter_counts

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


def test_options_change_the_counts_by_what_they_add_and_leave_out() -> None:
    counts = parameter_counts(CONFIG)
    layers = {name: count.layers for name, count in counts.items()}
    assert layers["SASP with skip_connections"] == layers["SASP"]
    assert layers["SASP with value_projection"] == layers["SASP"] + L * (D * D + D)
    assert layers["SASP without output_projection"] == layers["SASP"] - L * (D * D + D)
    assert layers["Factored without head_mixing"] == layers["Factored"] - 2 * L * H * H
    assert counts["FactoredALiBi without head_mixing"].embeddings == V * D


def test_one_count_is_that_of_the_config_s_own_model_and_options() -> None:
    config = replace(CONFIG, model_type="SASP", value_projection=True, output_projection=False)
    assert parameter_count(config) == parameter_counts(CONFIG)["SASP"]
    with pytest.raises(ModelOptionError, match="value_projection"):
        parameter_counts(config)


def test_the_width_inside_the_mlp_can_be_chosen() -> None:
    narrow = parameter_counts(replace(CONFIG, n_inner=D))["Vanilla"].layers
    assert parameter_counts(CONFIG)["Vanilla"].layers - narrow == L * (6 * D * D + 3 * D)


def test_the_command_prints_all_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--n-layer", "2", "--n-embd", "12", "--n-head", "3", "--vocab-size", "50", "--block-size", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "Vanilla",
        "SASP",
        "SASP with skip_connections",
        "SASP with value_projection",
        "SASP without output_projection",
        "Factored",
        "Factored without head_mixing",
        "FactoredALiBi",
        "FactoredALiBi without head_mixing",
    ]
    assert "100.0%" in lines[2]


def test_sizes_that_cannot_be_end_the_command_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--n-embd", "10", "--n-head", "3"])
    assert end.value.code == 2
    assert "n_embd=10 and n_head=3" in capsys.readouterr().err
