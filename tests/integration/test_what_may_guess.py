"""What guesses has to fit the model: anything else is refused at start."""

from pathlib import Path
from typing import Any

import pytest

from splitlearn_client.errors import BadModelFiles
from support.running_split import running_client, running_trunk, until
from support.shadows import exported, random_shadow
from support.tiny_models import VOCABULARY, random_model, save_sepweight, tiny_config


async def test_a_small_model_with_another_tokenizer_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    config = tiny_config("llama", vocab_size=2 * VOCABULARY)
    larger = save_sepweight(tmp_path, random_model(config))
    settings: dict[str, Any] = {"speculative_method": "draft_model", "speculative_model": larger}
    with pytest.raises(BadModelFiles, match="another tokenizer"):
        async with running_client(tiny_weights, "127.0.0.1:1", **settings):
            pass


async def test_a_shadow_of_another_cut_is_refused_at_start_and_so_is_a_trunk_of_another(
    tiny_weights: Path, tmp_path: Path
) -> None:
    shadow = exported(random_shadow(), tmp_path / "shadow", tiny_weights, "1-4")
    settings: dict[str, Any] = {"speculative_method": "shadow", "speculative_model": shadow}
    with pytest.raises(BadModelFiles, match="was fitted for layers 1-4, and --layers is 2-4"):
        async with running_client(tiny_weights, "127.0.0.1:1", layers="2-4", **settings):
            pass
    async with (
        running_trunk(tiny_weights, "2-4") as trunk,
        running_client(tiny_weights, trunk.address, **settings) as client,
    ):
        await until(lambda: "this client holds" in (client.service.connection.not_ready_reason or ""))
        assert "layers 1-4 of 5" in str(client.service.connection.not_ready_reason)
