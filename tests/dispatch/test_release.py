"""What was said is in memory for as long as somebody works on it, not until the collector of cycles comes by."""

from __future__ import annotations

import asyncio
import gc

from tests.e2e.test_heartbeat import relaying
from waypost.dispatch.attempt import Attempt
from waypost.kit.payload import Payload
from waypost.simulator import Simulator


async def test_an_answered_request_frees_itself() -> None:
    async with Simulator() as sim, relaying(sim) as gateway:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                assert (await gateway.ask()).status == 200
            async with asyncio.timeout(20):
                while _kept():  # noqa: ASYNC110  the provider's last bytes may come after our answer
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


def _kept() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, Attempt | Payload)]
