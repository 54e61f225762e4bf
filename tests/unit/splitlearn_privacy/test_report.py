import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from cleangpt.tokenizers import create_tokenizer
from cleangpt.writing import write_figure
from splitlearn_privacy import rendering
from splitlearn_privacy import report as report_module
from splitlearn_privacy.attacks import GUESSES, Guesses, Knowledge, Target, candidate_replay
from splitlearn_privacy.attacks.candidate_replay import CANDIDATE_REPLAY
from splitlearn_privacy.attacks.nearest_embedding import NEAREST_EMBEDDING
from splitlearn_privacy.attacks.public_top import PUBLIC_TOP
from splitlearn_privacy.cut_model import Seen
from splitlearn_privacy.errors import TextTooLong, UnknownToken
from splitlearn_privacy.plots import plot_cuts, plot_utility
from splitlearn_privacy.report import Cell, Grid, Leak, Report, measure
from splitlearn_privacy.scoring import Share
from splitlearn_privacy.texts import Texts, documents
from support.attack_scene import texts
from support.tiny_models import VOCABULARY, random_model, save_sepweight, tiny_config

DEMO = Path(__file__).parents[3] / "deploy/demo_model"
LENGTH = 16


@pytest.fixture(scope="module")
def read() -> Texts:
    found = documents("stdlib-questions", create_tokenizer("hugging_face", folder=DEMO))
    return Texts.cut(found, LENGTH, 16, 2)


@pytest.fixture(scope="module")
def report(read: Texts) -> Report:
    """Of the model that ships, by the attack that takes no time."""
    grid = Grid(("1-5", "2-5"), ("none", "int8"), (0.0, 0.5), attacks=(NEAREST_EMBEDDING,))
    return measure(DEMO, read, grid, name="demo", source="stdlib-questions", step=lambda _: None)


@pytest.fixture(scope="module")
def strongest(read: Texts) -> Report:
    """Of one cell, by attacks that need no training."""
    one = replace(read, test_NT=read.test_NT[:1], test_said_NT=read.test_said_NT[:1])
    grid = Grid(attacks=(NEAREST_EMBEDDING, CANDIDATE_REPLAY, PUBLIC_TOP))
    steps: list[str] = []
    found = measure(DEMO, one, grid, name="demo", source="stdlib-questions", step=steps.append)
    assert steps[:2] == ["layers 1-5: costs", "layers 1-5, codec none, noise 0: nearest embedding on outgoing"]
    return found


def leaks(cell: Cell) -> dict[tuple[str, Seen], Leak]:
    return {(leak.attack, leak.seen): leak for leak in cell.leaks}


def test_every_cut_codec_and_noise_is_measured(report: Report) -> None:
    found = [(each.layers, each.distortion.codec, each.distortion.noise) for each in report.cells]

    assert found == [(cut, codec, noise) for cut in ("1-5", "2-5") for codec in ("none", "int8") for noise in (0, 0.5)]
    assert report.knows_texts


def test_each_attack_reads_what_it_can(strongest: Report) -> None:
    first = leaks(strongest.cells[0])

    assert set(first) == {
        ("nearest embedding", Seen.OUTGOING),
        ("nearest embedding", Seen.RETURNED),
        *((CANDIDATE_REPLAY.name, kind) for kind in Seen),
        ("public top", Seen.RETURNED),
    }
    assert all(first[CANDIDATE_REPLAY.name, kind].score.top_1.value == 1 for kind in Seen)
    # greedy answers: the public top computes what the client's does
    assert first["public top", Seen.RETURNED].score.top_1.value == 1
    assert first["public top", Seen.RETURNED].target is Target.SAID


def test_noise_lowers_what_is_read_and_costs_perplexity(report: Report) -> None:
    exact, noisy = report.cells[0], report.cells[1]

    assert noisy.costs.perplexity_change > exact.costs.perplexity_change
    shares = [leaks(each)[NEAREST_EMBEDDING.name, Seen.OUTGOING].score.top_1.value for each in (exact, noisy)]
    assert shares[1] <= shares[0]


def test_the_worst_leak_is_of_tokens_that_the_client_sent(strongest: Report) -> None:
    worst = strongest.worst

    assert worst is not None
    assert worst.target is Target.READ
    assert worst.score.top_1.value == 1


def test_a_limit_does_not_count_what_the_public_top_says(strongest: Report) -> None:
    first = strongest.cells[0]
    top = leaks(first)["public top", Seen.RETURNED]
    weak = replace(
        leaks(first)[NEAREST_EMBEDDING.name, Seen.OUTGOING], score=replace(top.score, top_1=Share(0.1, 0, 1))
    )

    report = replace(strongest, cells=(replace(first, leaks=(top, weak)),))

    assert report.worst == report.cells[0].worst == weak
    assert replace(first, leaks=(top,)).worst is None


def test_missed_tokens_are_counted_where_shares_are(read: Texts) -> None:
    n_common = read.n_common
    assert n_common

    def blind_to_the_beginning(_: Knowledge, seen_NTW: torch.Tensor) -> Guesses:
        """Lists the right token everywhere but in what all texts begin with."""
        shortlist_NTC = read.test_NT[..., None].clone()
        shortlist_NTC[:, :n_common] = -1
        return Guesses(shortlist_NTC.expand(*seen_NTW.shape[:2], GUESSES), shortlist_NTC)

    grid = Grid(attacks=(replace(CANDIDATE_REPLAY, read=blind_to_the_beginning),))
    found = measure(DEMO, read, grid, name="demo", source="stdlib-questions", step=lambda _: None)

    assert {(leak.score.top_1.value, leak.missed) for leak in found.cells[0].leaks} == {(1.0, 0.0)}


def test_rows_of_another_width_than_embeddings_are_read_by_the_other_attacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "_LEAST_GAIN_NATS", -1e9)
    monkeypatch.setattr(candidate_replay, "MOST_CANDIDATES", 100)
    monkeypatch.setattr(candidate_replay, "SHORTLIST", 60)
    # whose embeddings are half as wide as its layers
    weights = save_sepweight(tmp_path, random_model(tiny_config("opt")))
    grid = Grid(attacks=(NEAREST_EMBEDDING, CANDIDATE_REPLAY))

    found = measure(weights, texts(16, 2), grid, name="opt", source="ids", step=lambda _: None)

    assert set(leaks(found.cells[0])) == {(CANDIDATE_REPLAY.name, kind) for kind in Seen}


def test_texts_with_a_token_that_has_no_embedding_are_refused(tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("gpt2", vocab_size=VOCABULARY - 20)))

    with pytest.raises(UnknownToken, match=r"have the token \d+, and the model has embeddings for \d+ tokens"):
        measure(weights, texts(16, 2), Grid(), name="gpt2", source="ids", step=lambda _: None)


def test_texts_beyond_the_context_are_refused(tmp_path: Path) -> None:
    weights = save_sepweight(tmp_path, random_model(tiny_config("gpt2", n_positions=LENGTH)))
    fit, longer = (texts(16, 2, length) for length in (LENGTH, LENGTH + 1))

    assert measure(weights, fit, Grid(), name="gpt2", source="ids", step=lambda _: None).length == LENGTH
    with pytest.raises(TextTooLong, match="texts of 17 tokens do not fit into this model's context of 16 tokens"):
        measure(weights, longer, Grid(), name="gpt2", source="ids", step=lambda _: None)


def test_the_table_has_a_row_for_each_attack_and_says_what_it_is(strongest: Report) -> None:
    cell = strongest.cells[0]
    table = list(rendering.rows(cell))

    assert len(table) == len(cell.leaks)
    assert all(len(row) == len(rendering.HEADING) for row in table)
    assert any("100.0 (" in row[3] for row in table)
    assert rendering.costs_line(cell).startswith("layers 1-5, codec none, noise 0: perplexity ")
    assert "lower bound" in rendering.LOWER_BOUND


def test_the_json_holds_every_number(report: Report) -> None:
    found = json.loads(json.dumps(rendering.as_json(report)))

    assert found["note"] == rendering.LOWER_BOUND
    assert len(found["cells"]) == len(report.cells)
    leak = found["cells"][0]["leaks"][0]
    assert leak["score"]["top_1"].keys() == {"value", "low", "high"}
    assert leak["source"].startswith("arXiv")


def test_the_plots_are_drawn(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def noted(figure: Figure, file: Path) -> None:
        [axes] = figure.axes
        drawn.append(sum(len(each.lines[0].get_xdata()) for each in axes.containers))
        write_figure(figure, file)

    monkeypatch.setattr("splitlearn_privacy.plots.write_figure", noted)
    plot_cuts(report, tmp_path / "cuts.png")
    plot_utility(report, tmp_path / "utility.png")

    assert all(imread(tmp_path / name).std() > 0.05 for name in ("cuts.png", "utility.png"))
    # outgoing rows of two cuts and the returned rows that they share; four distortions of each cut
    assert drawn == [2 + 1, 2 * 4]


def test_where_the_model_predicts_no_better_than_chance_only_costs_are_measured(tiny_weights: Path) -> None:
    report = measure(tiny_weights, texts(16, 2), Grid(), name="tiny", source="ids", step=lambda _: None)

    assert not report.knows_texts
    assert report.worst is None
    assert [cell.leaks for cell in report.cells] == [()]
    assert report.cells[0].costs.client_bytes > 0
    assert rendering.as_json(report)["note"] == rendering.UNKNOWN_TEXT
