"""What a service holds in memory while it serves."""

import asyncio
import gc
from contextlib import suppress
from pathlib import Path

from splitlearn_client.app import serve
from splitlearn_client.settings import ClientSettings
from support.running_split import running_trunk, until


async def test_what_a_client_has_loaded_is_left_out_of_later_collections(tiny_weights: Path) -> None:
    async with running_trunk(tiny_weights) as trunk:
        # a service that another test ran in this process may have frozen its own
        gc.unfreeze()
        serving = asyncio.create_task(serve(ClientSettings(weights=tiny_weights, trunk=trunk.address, port=0)))
        try:
            await until(lambda: serving.done() or gc.get_freeze_count() > 0)
            assert gc.get_freeze_count() > len(gc.get_objects())
        finally:
            gc.unfreeze()
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving
