"""A `Stack` beside the test: on a loop of its own in a thread, so that clients which block can be tried against it, and
one gateway can serve all tests of a module.

    with hosted(postgres, directory) as stack:
        client = OpenAI(base_url=stack.base_url, api_key=stack.key)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.conftest import _fresh
from tests.e2e.stack import Stack
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import Scope

PATIENCE_S = 60.0
ELSEWHERE = "127.0.9.1"  # so that asking for a key that is not known yet is no failed try of the address of tests
_Result = TypeVar("_Result")


class HostedStack:
    """What a test in another thread may do with a stack."""

    def __init__(self, stack: Stack, loop: asyncio.AbstractEventLoop) -> None:
        self.stack = stack
        self._loop = loop

    @property
    def base_url(self) -> str:
        """What an SDK is given."""
        return f"http://127.0.0.1:{self.stack.port}/v1"

    @property
    def key(self) -> str:
        return self.stack.key.text

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do it on the stack's loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    @contextmanager
    def fault(self, kind: str, **fields: object) -> Iterator[None]:
        """The simulator's providers behave badly meanwhile."""
        self.run(_call(lambda: self.stack.sim.arm(kind, **fields)))
        try:
            yield
        finally:
            self.disarm()

    def disarm(self) -> None:
        """The simulator's providers behave again."""
        self.run(_call(self.stack.sim.disarm))

    def make_key(self, *, usd: int = 1, limits: Limits | None = None) -> str:
        """A key of a new organisation, known to the gateway."""
        return self.run(self._make_key(usd, limits or Limits()))

    async def _make_key(self, usd: int, limits: Limits) -> str:
        operator = self.stack.operator
        org_id = await operator.create_org("another", is_unlimited=False)
        if usd:
            await operator.add_credit(org_id, usd * 1_000_000_000, None)
        made = await operator.create_key(org_id, name="another", scope=Scope.FULL, limits=limits)
        async with asyncio.timeout(10):
            while (await self.stack.request("GET", "/v1/models", key=made.text, source=ELSEWHERE)).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return made.text


@contextmanager
def hosted(postgres: str, directory: Path, **options: Any) -> Iterator[HostedStack]:
    """A stack on a database of its own; `options` are those of `Stack`."""
    started: Future[HostedStack] = Future()
    is_over = threading.Event()

    async def serve(database: str) -> None:
        async with Stack(database, directory, **options) as stack:
            started.set_result(HostedStack(stack, asyncio.get_running_loop()))
            await asyncio.to_thread(is_over.wait)

    with contextmanager(_fresh)(postgres, "TEMPLATE waypost_template STRATEGY file_copy") as database:
        with ThreadPoolExecutor(max_workers=1) as thread:
            served = thread.submit(lambda: asyncio.run(serve(database)))
            try:
                either: set[Future[Any]] = {started, served}
                wait(either, timeout=PATIENCE_S, return_when=FIRST_COMPLETED)
                if served.done():
                    served.result()
                yield started.result(timeout=0)
            finally:
                is_over.set()
        served.result()


async def _call(work: Callable[[], None]) -> None:
    work()
