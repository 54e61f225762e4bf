import pytest
import torch

from splitlearn_privacy.attacks import candidate_replay
from splitlearn_privacy.attacks.candidate_replay import CANDIDATE_REPLAY
from splitlearn_privacy.cut_model import Seen
from splitlearn_privacy.wire import Distortion
from support.attack_scene import Scene


@pytest.mark.parametrize("kind", list(Seen))
def test_every_token_is_read_off_exact_rows(scene: Scene, kind: Seen) -> None:
    knowledge, seen, wanted_NT = scene(kind)

    guesses = CANDIDATE_REPLAY.read(knowledge, seen)

    assert torch.equal(guesses.ids_NTK[..., 0], wanted_NT)
    assert guesses.shortlist_NTC is None


def test_tokens_are_read_off_int8_rows(scene: Scene) -> None:
    knowledge, seen, wanted_NT = scene(Seen.OUTGOING, Distortion("int8"))

    assert torch.equal(CANDIDATE_REPLAY.read(knowledge, seen).ids_NTK[..., 0], wanted_NT)


def test_candidates_are_rounded_as_the_client_rounds(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    # so coarse that rows as they are have others nearest
    monkeypatch.setattr(Distortion, "coded", lambda _, rows: torch.where(rows > 0, 100.0, 0.01 * rows.round()))
    knowledge, seen, wanted_NT = scene(Seen.OUTGOING)

    found = CANDIDATE_REPLAY.read(knowledge, seen).ids_NTK[..., 0]

    assert (found == wanted_NT).double().mean() > 0.9


def test_strong_noise_hides_them(scene: Scene) -> None:
    knowledge, seen, wanted_NT = scene(Seen.OUTGOING, Distortion(noise=30.0))

    assert (CANDIDATE_REPLAY.read(knowledge, seen).ids_NTK[..., 0] == wanted_NT).double().mean() < 0.2


@pytest.mark.parametrize("kind", list(Seen))
def test_a_layer_that_cannot_continue_a_batch_is_run_from_the_beginning(
    scene: Scene, kind: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    knowledge, seen, wanted_NT = scene(kind)
    monkeypatch.setattr(type(knowledge.model.bottom), "keeps_plain_kv", False)

    found = CANDIDATE_REPLAY.read(knowledge, seen[:1, :4]).ids_NTK

    assert torch.equal(found[..., 0], wanted_NT[:1, :4])


def test_of_a_large_vocabulary_only_a_shortlist_is_tried(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    knowledge, seen, wanted_NT = scene(Seen.OUTGOING, n_training=64)
    monkeypatch.setattr(candidate_replay, "MOST_CANDIDATES", 100)
    monkeypatch.setattr(candidate_replay, "SHORTLIST", 60)

    guesses = CANDIDATE_REPLAY.read(knowledge, seen)

    assert guesses.shortlist_NTC is not None
    assert guesses.shortlist_NTC.shape == (*wanted_NT.shape, 60)
    listed = guesses.shortlist_NTC
    assert all(len(set(each.tolist())) == 60 for each in listed.flatten(0, 1))
    is_listed = (listed == wanted_NT[..., None]).any(-1)
    # the shortlist is far better than chance, and what it holds is found as long as the text before it was
    assert is_listed.double().mean() > 0.5
    first = guesses.ids_NTK[:, 0, 0]
    assert torch.equal(first == wanted_NT[:, 0], is_listed[:, 0])
