import pytest
from transformers import PretrainedConfig

from splitlearn.errors import BadRegistration
from splitlearn.split_models.base import BaseTrunkModel
from splitlearn.split_models.registry import PARTS, ModelRegistry
from support.handmade import MODEL_TYPE, HandmadeTop, HandmadeTrunk


def test_a_registered_class_is_found_and_knows_what_for() -> None:
    assert ModelRegistry.find(MODEL_TYPE, "trunk") is HandmadeTrunk
    assert HandmadeTrunk.model_type == MODEL_TYPE
    assert ModelRegistry.registered()[MODEL_TYPE] == PARTS
    assert ModelRegistry.find("nobody's", "trunk") is None


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadRegistration, match="bottom, trunk, top"):
        ModelRegistry.register("new", "middle")


def test_a_class_that_is_not_of_the_part_is_refused_with_its_base() -> None:
    with pytest.raises(BadRegistration, match=r"HandmadeTop is no trunk.*BaseTrunkModel"):
        ModelRegistry.register("new", "trunk")(HandmadeTop)
    assert "new" not in ModelRegistry.registered()


def test_a_second_class_for_one_place_is_refused_with_the_first() -> None:
    class Other(HandmadeTrunk):
        pass

    with pytest.raises(BadRegistration, match="HandmadeTrunk already"):
        ModelRegistry.register(MODEL_TYPE, "trunk")(Other)
    assert ModelRegistry.find(MODEL_TYPE, "trunk") is HandmadeTrunk


def test_defining_a_class_again_replaces_it() -> None:
    def define() -> type[BaseTrunkModel]:
        @ModelRegistry.register("defined twice", "trunk")
        class Trunk(HandmadeTrunk):
            def __init__(self, config: PretrainedConfig) -> None:
                super().__init__(config, 0, 1)

        return Trunk

    first, second = define(), define()
    assert first is not second
    assert ModelRegistry.find("defined twice", "trunk") is second
