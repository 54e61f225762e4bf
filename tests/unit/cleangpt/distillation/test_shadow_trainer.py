from pathlib import Path

import pytest
import torch
from torch import Tensor

from cleangpt.data.batches import Batch
from cleangpt.distillation.agreement import top1_agreement
from cleangpt.distillation.ends import Ends, ShadowedModel
from cleangpt.distillation.losses import HiddenStateLoss, LogitLoss
from cleangpt.distillation.shadow_trainer import ShadowTrainer
from cleangpt.distillation.teacher import LocalTrunk
from cleangpt.errors import CheckpointMismatchError, TrainingSettingsError, TrunkMismatchError
from cleangpt.model.shadow import Shadow, ShadowConfig
from cleangpt.model.shadow_folder import load_shadow
from cleangpt.trainers import TrainingSettings
from splitlearn.checkpoints.load import load_part


@pytest.fixture
def ends(tiny_weights: Path) -> Ends:
    return Ends.load(tiny_weights)


@pytest.fixture
def trunk(tiny_weights: Path, ends: Ends) -> LocalTrunk:
    return LocalTrunk(load_part(tiny_weights, "1-4"), ends.fingerprint)


@pytest.fixture
def texts() -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    return [Batch(torch.randint(384, (4, 8), generator=generator)) for _ in range(3)]


def _shadow(n_layers: int = 1) -> Shadow:
    torch.manual_seed(0)
    return Shadow(ShadowConfig(64, width=32, num_hidden_layers=n_layers, intermediate_size=32))


def test_it_learns_the_trunks_rows_layer_by_layer_and_then_the_predictions(
    ends: Ends, trunk: LocalTrunk, texts: list[Batch], tmp_path: Path
) -> None:
    shadow = _shadow(2)
    trainer = ShadowTrainer(ends, trunk, shadow, texts, tmp_path)
    before = trainer.shadow(torch.zeros(1, 1, 64))
    results = trainer.train(hidden_epochs=6, logit_epochs=10, lr=5e-3)
    assert list(results.stages) == ["block_00000", "block_00001", "end_to_end"]
    assert results.steps == 3 * (6 + 6 + 10)
    for history in results.stages.values():
        assert sum(history.losses[-3:]) < sum(history.losses[:3])
    assert before.shape == (1, 1, 64)
    again = load_shadow(tmp_path / "shadow", fingerprint=ends.fingerprint)
    assert all(map(torch.equal, again.parameters(), shadow.parameters()))


def test_a_shadow_without_layers_is_fitted_end_to_end_alone(
    ends: Ends, trunk: LocalTrunk, texts: list[Batch], tmp_path: Path
) -> None:
    shadow = _shadow(0)
    results = ShadowTrainer(ends, trunk, shadow, texts, tmp_path).train(hidden_epochs=6, logit_epochs=20, lr=5e-3)
    assert list(results.stages) == ["end_to_end"]
    losses = results.stages["end_to_end"].losses
    assert sum(losses[-3:]) < sum(losses[:3])
    again = load_shadow(tmp_path / "shadow", fingerprint=ends.fingerprint)
    assert all(map(torch.equal, again.parameters(), shadow.parameters()))


def test_each_stage_measures_its_own_loss_on_held_out_rows_of_which_checkpoints_know(
    ends: Ends, trunk: LocalTrunk, texts: list[Batch], tmp_path: Path
) -> None:
    *first, last = texts

    def fitted(out: str, held_out: list[Batch] | None) -> ShadowTrainer:
        settings = TrainingSettings(epochs=1, evaluate_every=3)
        trainer = ShadowTrainer(ends, trunk, _shadow(), first, tmp_path / out, settings, validation_data=held_out)
        results = trainer.train(2, 2)
        for history in results.stages.values():
            assert [each.step for each in history.evaluations] == ([3, 4] if held_out else [])
        return trainer

    watched, alone = fitted("watched", [last]), fitted("alone", None)
    assert all(map(torch.equal, watched.shadow.parameters(), alone.shadow.parameters()))
    fitted("watched", [last])
    with pytest.raises(CheckpointMismatchError, match=r"another training: other validation text\. Train"):
        fitted("watched", [Batch(last.ids_BT.flip(1))])


def test_layers_and_the_fit_of_the_whole_have_rates_of_their_own(
    ends: Ends, trunk: LocalTrunk, texts: list[Batch]
) -> None:
    def peaks(lr: float | list[float], logit_lr: float | None = None) -> list[float]:
        stages = ShadowTrainer(ends, trunk, _shadow(2), texts).train(4, 4, lr, logit_lr=logit_lr).stages
        return [pytest.approx(max(each.rates)) for each in stages.values()]

    assert peaks(1e-3) == [1e-3, 1e-3, 1e-3]
    assert peaks([1e-3, 2e-3]) == [1e-3, 2e-3, 2e-3]
    assert peaks([1e-3, 2e-3], 5e-4) == [1e-3, 2e-3, 5e-4]
    with pytest.raises(TrainingSettingsError, match="3 rates for 2 blocks"):
        peaks([1e-3] * 3)


def test_the_ends_stand_still(ends: Ends, trunk: LocalTrunk, texts: list[Batch]) -> None:
    parameters = [*ends.bottom.parameters(), *ends.top.parameters()]
    before = [each.clone() for each in parameters]
    ShadowTrainer(ends, trunk, _shadow(), texts).train(1, 1)
    assert all(map(torch.equal, before, parameters))


def test_a_fit_that_was_killed_ends_as_an_uninterrupted_one(
    ends: Ends, trunk: LocalTrunk, texts: list[Batch], tmp_path: Path
) -> None:
    whole = ShadowTrainer(ends, trunk, _shadow(), texts, tmp_path / "whole")
    whole.train(2, 2)
    ShadowTrainer(ends, trunk, _shadow(), texts, tmp_path / "killed").train(2, 0)
    resumed = ShadowTrainer(ends, trunk, _shadow(), texts, tmp_path / "killed")
    resumed.train(2, 2)
    assert all(map(torch.equal, whole.shadow.parameters(), resumed.shadow.parameters()))


def test_padding_has_no_say(ends: Ends, trunk: LocalTrunk) -> None:
    ids_BT = torch.tensor([[5, 6, 7, 8, 9, 0, 0]])
    learned_BT = torch.tensor([[False, False, True, True, True, False, False]])
    padded, bare = Batch(ids_BT, learned_BT), Batch(ids_BT[:, :5], learned_BT[:, :5])
    losses = [ShadowTrainer(ends, trunk, _shadow(), [each]).train(1, 1) for each in (padded, bare)]
    for stage in ("block_00000", "end_to_end"):
        assert losses[0].stages[stage].losses == pytest.approx(losses[1].stages[stage].losses, rel=1e-4)


def test_a_trunk_is_asked_once_for_every_batch(ends: Ends, trunk: LocalTrunk, texts: list[Batch]) -> None:
    class Counting:
        fingerprint = trunk.fingerprint
        asked = 0

        def hidden(self, hidden_BTD: Tensor, lengths: list[int]) -> Tensor:
            self.asked += 1
            assert lengths == [8, 8, 8, 8]
            return trunk.hidden(hidden_BTD, lengths)

    counting = Counting()
    ShadowTrainer(ends, counting, _shadow(), texts).train(2, 3)
    assert counting.asked == len(texts)


def test_a_trunk_of_another_cut_is_refused(ends: Ends, tiny_weights: Path, texts: list[Batch]) -> None:
    other = LocalTrunk(load_part(tiny_weights, "1-3"), Ends.load(tiny_weights, "1-3").fingerprint)
    with pytest.raises(TrunkMismatchError, match=r"layers 1-3 of 5.*layers 1-4 of 5"):
        ShadowTrainer(ends, other, _shadow(), texts)


def test_agreement_counts_equal_first_choices(ends: Ends, trunk: LocalTrunk, texts: list[Batch]) -> None:
    trainer = ShadowTrainer(ends, trunk, _shadow(), texts)
    before = top1_agreement(ends, trunk, trainer.shadow, texts)
    trainer.train(2, 60, lr=1e-2)
    after = top1_agreement(ends, trunk, trainer.shadow, texts)
    assert before < 0.5 < 0.6 < after


def test_bottom_shadow_and_top_go_on_row_by_row(ends: Ends, trunk: LocalTrunk, texts: list[Batch]) -> None:
    trainer = ShadowTrainer(ends, trunk, _shadow(), texts)
    trainer.train(1, 1)
    model = ShadowedModel(ends, trainer.shadow)
    ids_T = texts[0].ids_BT[0]
    whole_NV = model.logits(Batch(ids_T[None]))
    cache = model.new_cache()
    rows = [model.step(ids_T[:3], cache)] + [model.step(ids_T[t : t + 1], cache) for t in range(3, 7)]
    assert cache.n_rows == 7
    torch.testing.assert_close(torch.stack(rows), whole_NV[2:], rtol=1e-4, atol=1e-4)


def test_a_shadow_for_other_ends_does_not_run(ends: Ends) -> None:
    with pytest.raises(TrunkMismatchError, match="the shadow is for"):
        ShadowedModel(ends, _shadow())


def test_a_stage_without_epochs_is_left_out(ends: Ends, trunk: LocalTrunk, texts: list[Batch]) -> None:
    assert list(ShadowTrainer(ends, trunk, _shadow(), texts).train(0, 1).stages) == ["end_to_end"]
    assert list(ShadowTrainer(ends, trunk, _shadow(), texts).train(1, 0).stages) == ["block_00000"]


def test_checkpoints_of_another_shadow_are_refused(
    ends: Ends, trunk: LocalTrunk, texts: list[Batch], tmp_path: Path
) -> None:
    ShadowTrainer(ends, trunk, _shadow(1), texts, tmp_path).train(1, 0)
    with pytest.raises(CheckpointMismatchError):
        ShadowTrainer(ends, trunk, _shadow(2), texts, tmp_path).train(1, 0)


def test_checkpoints_of_another_loss_are_refused_by_name(
    ends: Ends, trunk: LocalTrunk, texts: list[Batch], tmp_path: Path
) -> None:
    def fitted(hidden_loss: HiddenStateLoss | None = None, logit_loss: LogitLoss | None = None) -> None:
        trainer = ShadowTrainer(ends, trunk, _shadow(), texts, tmp_path)
        trainer.train(1, 1, hidden_loss=hidden_loss, logit_loss=logit_loss)

    fitted()
    fitted(HiddenStateLoss("mse"), LogitLoss("kl_div"))
    for said, losses in {
        "hidden_state_loss_type was mse and is now kl_div": {"hidden_loss": HiddenStateLoss("kl_div")},
        "hidden_state_temperature was 1.0 and is now 2.0": {"hidden_loss": HiddenStateLoss(temperature=2.0)},
        "logit_loss_type was kl_div and is now mse": {"logit_loss": LogitLoss("mse")},
        "training: temperature was 1.0 and is now 2.0": {"logit_loss": LogitLoss(temperature=2.0)},
        "logit_loss_weight was 1.0 and is now 3.0": {"logit_loss": LogitLoss(weight=3.0)},
        "text_share was 0.0 and is now 0.25": {"logit_loss": LogitLoss("mix", text_share=0.25)},
        "cosine_share was 0.0 and is now 0.25": {"hidden_loss": HiddenStateLoss("mix", cosine_share=0.25)},
    }.items():
        with pytest.raises(CheckpointMismatchError, match=said):
            fitted(**losses)


def test_the_way_in_learns_with_the_first_layer(ends: Ends, trunk: LocalTrunk, texts: list[Batch]) -> None:
    shadow = _shadow()
    before = shadow.entrance[1].weight.clone()
    ShadowTrainer(ends, trunk, shadow, texts).train(2, 0)
    assert not torch.equal(shadow.entrance[1].weight, before)


def test_an_agreement_with_the_trunk_of_another_cut_is_refused(
    ends: Ends, trunk: LocalTrunk, tiny_weights: Path, texts: list[Batch]
) -> None:
    shadow = ShadowTrainer(ends, trunk, _shadow(), texts).shadow
    other = LocalTrunk(load_part(tiny_weights, "1-3"), Ends.load(tiny_weights, "1-3").fingerprint)
    with pytest.raises(TrunkMismatchError):
        top1_agreement(ends, other, shadow, texts)


def test_the_ends_name_the_trunks_dtype_and_take_rows_of_any(ends: Ends, tiny_weights: Path) -> None:
    assert Ends.load(tiny_weights, trunk="float16").fingerprint.endswith("float16")
    batch = Batch(torch.tensor([[1, 2, 3]]))
    rows_BTD = torch.randn(1, 3, 64)
    torch.testing.assert_close(ends.logits(rows_BTD.double(), batch), ends.logits(rows_BTD, batch))


def test_the_batches_come_in_another_order_in_every_epoch(ends: Ends, trunk: LocalTrunk, texts: list[Batch]) -> None:
    # at this rate nothing is learned, so that a loss tells which batch it is of
    [history] = ShadowTrainer(ends, trunk, _shadow(), texts).train(8, 0, lr=1e-12).stages.values()
    losses = [round(loss, 4) for loss in history.losses]
    epochs = [losses[start : start + 3] for start in range(0, 24, 3)]
    assert len({tuple(sorted(each)) for each in epochs}) == 1
    assert len({tuple(each) for each in epochs}) > 2


def test_a_shadow_that_was_saved_goes_on_from_its_checkpoints(
    ends: Ends, trunk: LocalTrunk, texts: list[Batch], tmp_path: Path
) -> None:
    first = ShadowTrainer(ends, trunk, _shadow(), texts, tmp_path).train(2, 0)
    second = ShadowTrainer(ends, trunk, _shadow(), texts, tmp_path).train(2, 1)
    assert second.stages["block_00000"].losses == first.stages["block_00000"].losses
