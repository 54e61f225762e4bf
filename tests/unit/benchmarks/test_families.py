"""The families' benchmark: contenders of equal size, and a plot that names each of them."""

from pathlib import Path

import pytest

from cleangpt.trainers.history import Evaluation, History
from tests.benchmarks.families import BASE, CLOSE, CONTENDERS, Found, drawn, matched, parameters_of


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_contender_has_its_options_and_as_many_parameters_as_vanilla(name: str) -> None:
    config = matched(CONTENDERS[name])
    assert all(getattr(config, option) == value for option, value in CONTENDERS[name].options.items())
    assert parameters_of(config) == pytest.approx(parameters_of(BASE), rel=CLOSE)
    assert (config.n_layer, config.n_embd, config.n_head) == (BASE.n_layer, BASE.n_embd, BASE.n_head)


def test_the_plot_has_both_curves_of_sasp_and_of_factored(tmp_path: Path) -> None:
    history = History(losses=[5.0, 4.0, 3.0], rates=[0.1] * 3, evaluations=[Evaluation(2, 4.5), Evaluation(3, 3.25)])
    figure = drawn({name: Found(BASE, 1, 1.0, history) for name in CONTENDERS})
    validation, training = figure.axes
    names = {text.get_text().removesuffix(": 3.250") for text in validation.get_legend().get_texts()}
    assert names == CONTENDERS.keys()
    assert {"SASP", "SASP with skips", "Factored", "Factored without mixing"} <= names
    colors = {line.get_color() for line in validation.lines}
    assert len(validation.lines) == len(training.lines) == len(colors) == len(CONTENDERS)
    figure.savefig(tmp_path / "families.png")
