import pytest
import torch
from torch import nn

from splitlearn.errors import BadCheckpoint
from splitlearn.split_models.base import BaseBottomModel, BaseTopModel, BaseTrunkModel
from support.handmade import HandmadeBottom, HandmadeTop, HandmadeTrunk, Settings, whole_model

IDS = torch.randint(0, 32, (3, 7), generator=torch.Generator().manual_seed(1))


def in_three(state: dict[str, torch.Tensor]) -> tuple[HandmadeBottom, HandmadeTrunk, HandmadeTop]:
    return (
        HandmadeBottom.from_pretrained_split(state, Settings(), end_layer=1),
        HandmadeTrunk.from_pretrained_split(state, Settings(), start_layer=1, end_layer=3),
        HandmadeTop.from_pretrained_split(state, Settings(), start_layer=3),
    )


def test_an_architecture_of_ones_own_runs_in_three_like_the_whole() -> None:
    model = whole_model()
    bottom, trunk, top = in_three(model.state_dict())
    logits_BTV = top(trunk(bottom(IDS))).logits
    torch.testing.assert_close(logits_BTV, model(IDS), atol=1e-5, rtol=0)
    assert logits_BTV.std() > 0.1


def test_the_callers_mask_goes_through_the_architectures_own() -> None:
    bottom, _, _ = in_three(whole_model().state_dict())
    mask = torch.ones(3, 7)
    mask[:, 0] = 0
    other = IDS.clone()
    other[:, 0] = (other[:, 0] + 1) % 32
    assert not torch.equal(bottom(IDS)[:, 1:], bottom(other)[:, 1:])
    assert torch.equal(bottom(IDS, attention_mask=mask)[:, 1:], bottom(other, attention_mask=mask)[:, 1:])


def test_positions_count_from_0_unless_given() -> None:
    bottom, _, _ = in_three(whole_model().state_dict())
    assert torch.equal(bottom(IDS), bottom(IDS, position_ids=torch.arange(7)[None]))
    assert not torch.equal(bottom(IDS), bottom(IDS, position_ids=torch.arange(1, 8)[None]))


def test_a_layer_that_is_called_otherwise_needs_one_method() -> None:
    class Shifted(HandmadeTrunk):
        def run_block(
            self, block: nn.Module, hidden_BTD: torch.Tensor, attention_mask: object, position_ids: torch.Tensor
        ) -> torch.Tensor:
            return hidden_BTD + position_ids[..., None]

    hidden_BTD = torch.zeros(1, 3, 16)
    assert Shifted(Settings(), 0, 2)(hidden_BTD)[0, :, 0].tolist() == [0, 2, 4]


def test_the_bases_cannot_be_used_without_their_methods() -> None:
    for base, missing in ((BaseBottomModel, "get_embeddings"), (BaseTrunkModel, "blocks"), (BaseTopModel, "lm_head")):
        with pytest.raises(TypeError, match=missing):
            base(Settings(), 1)  # type: ignore[abstract]


def test_weights_are_found_with_and_without_a_prefix() -> None:
    state = whole_model().state_dict()
    bare = {key.removeprefix("model."): tensor for key, tensor in state.items()}
    for with_prefix, without in zip(in_three(state), in_three(bare), strict=True):
        for name, tensor in with_prefix.state_dict().items():
            assert torch.equal(tensor, without.state_dict()[name])


def test_layers_are_those_of_the_whole_model() -> None:
    state = whole_model().state_dict()
    _, trunk, _ = in_three(state)
    assert torch.equal(trunk.state_dict()["layers.1.out.weight"], state["model.layers.2.out.weight"])


def test_the_weights_are_a_copy() -> None:
    state = whole_model().state_dict()
    _, _, top = in_three(state)
    top.lm_head.weight.data.zero_()
    assert state["lm_head.weight"].abs().sum() > 0


def test_a_missing_tensor_is_named() -> None:
    state = whole_model().state_dict()
    del state["model.layers.2.out.bias"]
    with pytest.raises(BadCheckpoint, match=r"no tensor for layers\.1\.out\.bias \(its layers count from 1\)"):
        in_three(state)


def test_a_tensor_that_could_be_one_of_two_is_refused() -> None:
    state = whole_model().state_dict()
    state["encoder.norm.weight"] = torch.ones(16)
    with pytest.raises(BadCheckpoint, match=r"norm\.weight could be"):
        HandmadeTop.from_pretrained_split(state, Settings(), start_layer=3)


def test_a_tensor_of_another_shape_is_refused_with_both_shapes() -> None:
    state = whole_model().state_dict()
    state["lm_head.weight"] = torch.ones(3, 16)
    with pytest.raises(BadCheckpoint, match=r"\[32, 16\], found \[3, 16\]"):
        HandmadeTop.from_pretrained_split(state, Settings(), start_layer=3)


def test_parameters_are_counted() -> None:
    assert HandmadeTrunk(Settings(), 0, 2).num_parameters == 2 * (32 + 48 * 17 + 16 * 17)
