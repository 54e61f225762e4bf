"""What a worker knows of a client that has ends of its own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cleangpt.model.folder import open_model
from cleangpt.tokenizers import create_tokenizer
from llm_sepweight import Manifest
from splitlearn.checkpoints.convert import prepare
from splitlearn_privacy import rendering
from splitlearn_privacy.attacks import GUESSES, Guesses, Knowledge
from splitlearn_privacy.attacks.candidate_replay import CANDIDATE_REPLAY
from splitlearn_privacy.cut_model import CutModel, Seen
from splitlearn_privacy.errors import OtherModel
from splitlearn_privacy.report import Grid, Report, Worker, measure
from splitlearn_privacy.texts import Texts, documents
from splitlearn_privacy.wire import Distortion
from support.tiny_models import random_model, save_sepweight, tiny_config

DEMO = Path(__file__).parents[3] / "deploy/demo_model"


@pytest.fixture(scope="module")
def read() -> Texts:
    found = documents("stdlib-questions", create_tokenizer("hugging_face", folder=DEMO))
    cut = Texts.cut(found, 16, 16, 2)
    return replace(cut, test_NT=cut.test_NT[:1], test_said_NT=cut.test_said_NT[:1])


@pytest.fixture(scope="module")
def own_ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that ships with another first layer, which changes what it says a little."""
    folder = tmp_path_factory.mktemp("ends")
    model = open_model(DEMO)
    first = next(each for name, each in model.named_modules() if name.endswith("layers.0"))
    with torch.no_grad():
        for number, parameter in enumerate(first.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter += 0.3 * parameter.float().std() * noise if parameter.dim() > 1 else 0
    model.save_pretrained(folder / "checkpoint")
    create_tokenizer("hugging_face", folder=DEMO).save_pretrained(folder / "checkpoint")
    prepare(str(folder / "checkpoint"), trunk_of=Manifest.read(DEMO)).write(folder / "parts")
    return folder / "parts"


def measured(weights: Path, read: Texts, grid: Grid, worker: Worker) -> Report:
    return measure(weights, read, grid, worker, name="own", source="stdlib-questions", step=lambda _: None)


@pytest.mark.parametrize("has_pairs", [False, True])
def test_it_has_the_public_weights_and_learns_from_the_client_s_rows_only_where_it_has_pairs(
    own_ends: Path, read: Texts, has_pairs: bool
) -> None:
    known: dict[Seen, Knowledge] = {}
    met: dict[Seen, Tensor] = {}

    def look(knowledge: Knowledge, seen_NTW: Tensor) -> Guesses:
        known[knowledge.kind], met[knowledge.kind] = knowledge, seen_NTW
        return Guesses(torch.zeros(*seen_NTW.shape[:2], GUESSES, dtype=torch.long))

    grid = Grid(attacks=(replace(CANDIDATE_REPLAY, read=look),))
    measured(own_ends, read, grid, Worker(DEMO, has_pairs))
    public, own = CutModel.load(DEMO, None), CutModel.load(own_ends, None)
    plain = Distortion()
    rows = {id(each): each.seen(read.training_NT, plain) for each in (public, own)}
    for kind in Seen:
        assert torch.equal(met[kind], own.seen(read.test_NT, plain)[kind])
        assert torch.equal(known[kind].seen_NTW, rows[id(own if has_pairs else public)][kind])
        assert not torch.equal(rows[id(own)][kind], rows[id(public)][kind])
        ids_1T = read.test_NT[:1]
        assert torch.equal(known[kind].model.sent(ids_1T), public.sent(ids_1T))


def test_the_report_says_what_the_worker_knows(own_ends: Path, read: Texts) -> None:
    none = Grid(attacks=())
    assert rendering.title(measured(own_ends, read, none, Worker())).endswith(
        "the worker has the weights of all layers"
    )
    known = measured(own_ends, read, none, Worker(DEMO, has_pairs=True))
    assert rendering.title(known).endswith("the worker has the weights of demo_model, and texts with their rows")
    assert rendering.as_json(known)["worker"] == known.worker


@pytest.mark.parametrize("n_layers", [5, 6])
def test_a_public_model_of_another_shape_is_refused(tmp_path: Path, own_ends: Path, read: Texts, n_layers: int) -> None:
    other = save_sepweight(tmp_path, random_model(tiny_config("llama", num_hidden_layers=n_layers)))
    with pytest.raises(OtherModel, match="is not the model that the client's was trained from"):
        measured(own_ends, read, Grid(), Worker(other))
