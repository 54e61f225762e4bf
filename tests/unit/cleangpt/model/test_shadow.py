import pytest
import torch

from cleangpt.errors import ShadowTooLargeError
from cleangpt.model.shadow import Shadow, ShadowConfig

NARROW = ShadowConfig(hidden_size=16, width=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)


def _random(config: ShadowConfig) -> Shadow:
    torch.manual_seed(0)
    shadow = Shadow(config).eval()
    with torch.no_grad():
        for each in shadow.parameters():
            each.add_(torch.randn_like(each), alpha=0.2)
    return shadow


def test_a_fresh_shadow_between_stitches_passes_on_what_it_gets() -> None:
    hidden_BTD = torch.randn(2, 5, 16)
    torch.testing.assert_close(Shadow(NARROW)(hidden_BTD), hidden_BTD)


def test_a_shadow_of_the_trunks_width_passes_on_what_its_layers_add_nothing_to() -> None:
    shadow = Shadow(ShadowConfig(**{**NARROW.to_dict(), "width": 16}))
    with torch.no_grad():
        for layer in shadow.stack.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    hidden_BTD = torch.randn(2, 5, 16)
    torch.testing.assert_close(shadow(hidden_BTD), hidden_BTD)


@pytest.mark.parametrize("width", [8, 16])
def test_without_layers_a_row_depends_on_itself_alone_and_passes_until_it_is_fitted(width: int) -> None:
    config = ShadowConfig(**{**NARROW.to_dict(), "num_hidden_layers": 0, "width": width})
    hidden_BTD = torch.randn(2, 5, 16)
    torch.testing.assert_close(Shadow(config)(hidden_BTD), hidden_BTD)
    shadow = _random(config)
    added_BTD = shadow(hidden_BTD) - hidden_BTD
    assert torch.linalg.matrix_rank(added_BTD.flatten(0, 1), atol=1e-4) == min(width, 10)
    torch.testing.assert_close(shadow(hidden_BTD[:, 3:]), shadow(hidden_BTD)[:, 3:])


@pytest.mark.parametrize("width", [8, 16])
def test_row_by_row_with_a_cache_equals_all_at_once(width: int) -> None:
    shadow = _random(ShadowConfig(**{**NARROW.to_dict(), "width": width}))
    hidden_BTD = torch.randn(1, 6, 16)
    whole_BTD = shadow(hidden_BTD)
    assert not torch.allclose(whole_BTD, hidden_BTD, atol=1e-2)
    cache = shadow.new_cache()
    pieces = [shadow(hidden_BTD[:, :3], cache)] + [shadow(hidden_BTD[:, t : t + 1], cache) for t in range(3, 6)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole_BTD)


def test_a_later_row_does_not_change_an_earlier_one() -> None:
    shadow = _random(NARROW)
    hidden_BTD = torch.randn(1, 6, 16)
    changed_BTD = hidden_BTD.clone()
    changed_BTD[:, 4:] += 1
    torch.testing.assert_close(shadow(changed_BTD)[:, :4], shadow(hidden_BTD)[:, :4])


def test_after_a_layer_later_layers_do_not_count() -> None:
    shadow = _random(NARROW)
    hidden_BTD = torch.randn(1, 4, 16)
    before_BTD = shadow.after(hidden_BTD, 0)
    with torch.no_grad():
        for each in shadow.stack.layers[1].parameters():
            each.zero_().add_(7)
    torch.testing.assert_close(shadow.after(hidden_BTD, 0), before_BTD)
    assert len(shadow.stack.layers) == 2


def test_the_widest_shadow_within_a_number_of_parameters_is_found() -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ShadowConfig.within(5000, **shape)
    wider = ShadowConfig(**{**config.to_dict(), "intermediate_size": config.intermediate_size + 8})
    assert Shadow(config).n_parameters <= 5000 < Shadow(wider).n_parameters


def test_a_shape_that_cannot_be_so_small_is_refused() -> None:
    with pytest.raises(ShadowTooLargeError, match="100 are allowed"):
        ShadowConfig.within(100, hidden_size=16, num_attention_heads=2)
    with pytest.raises(ShadowTooLargeError, match="give its width"):
        ShadowConfig.within(10_000, hidden_size=16, num_attention_heads=2, num_hidden_layers=0)
