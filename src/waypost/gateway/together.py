"""Works of one owner that end together.

A module of its own, never compiled: compiled code must not wait as an `async with` ends, and a task group does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


async def together(*works: Coroutine[None, None, None]) -> None:
    """Until all have ended. When one fails, or when this is cancelled, the others are cancelled and waited for.

    Raises:
        BaseExceptionGroup: of what failed.
    """
    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(work)
