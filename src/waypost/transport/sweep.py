"""One timer that looks at every connection a few times a second, instead of a timer per request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL_S = 0.2  # deadlines are met this late at worst


class Sweep:
    """Calls `act(now_s)` every 200 ms until stopped; `now_s` is `loop.time()`."""

    __slots__ = ("_act", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, act: Callable[[float], None]) -> None:
        self._loop = loop
        self._act = act
        self._timer = loop.call_later(INTERVAL_S, self._tick)

    def stop(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(INTERVAL_S, self._tick)
        self._act(self._loop.time())
