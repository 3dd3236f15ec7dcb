"""One child process: started, watched, restarted when it dies, and ended when asked.

start → ready ──────────────→ stop() → SIGTERM … SIGKILL
  ↑        └─ died ─ wait 0.1 s ×2 … 5 s ─┐
  └───────────────────────────────────────┘
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping

import msgspec

from waypost.supervisor.inheritance import parent_environment
from waypost.supervisor.internal_http import Address, is_ready
from waypost.telemetry.events import ProcessEnded, emit

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
STEADY_S = 10.0  # a child that lived this long did not fail at its start
FAILED_STARTS_MAX = 5  # in a row before the first success; then `up` says so and ends
_PROBE_S = 0.02  # between looks at whether a starting child is ready
_KILL_PATIENCE_S = 2.0


class ChildPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, and how to see that it is ready: 200 at `ready_path` of `address`."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = {}
    address: Address
    ready_path: str
    inherited_fds: tuple[int, ...] = ()
    drain_s: Callable[[], float] = lambda: 5.0  # asked when it is to end


class ChildFailed(Exception):
    """A child ended again and again before it was ready for the first time."""


class Child:
    """Owner of one child process."""

    def __init__(self, plan: ChildPlan) -> None:
        self.plan = plan
        self.restarts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._has_been_ready = False
        self._stopping = asyncio.Event()

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def run(self) -> None:
        """Keep the child running until `stop`. Raises ChildFailed when it never gets ready."""
        failures = 0
        while not self._stopping.is_set():
            loop = asyncio.get_running_loop()
            started_s = loop.time()
            process = await self._spawn()
            if self._stopping.is_set():  # while it was being started
                self._signal(signal.SIGKILL)
            exit_code = await process.wait()
            if self._stopping.is_set():
                return
            emit(ProcessEnded(process=self.plan.name, pid=process.pid, exit_code=exit_code))
            failures = 1 if loop.time() - started_s > STEADY_S else failures + 1
            if failures >= FAILED_STARTS_MAX:
                self._say_so(failures, exit_code)
            self.restarts += 1
            await self._wait_unless_stopped(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (failures - 1)))

    async def wait_ready(self) -> None:
        """Return when the child answers that it is ready, or is being stopped."""
        while not self._stopping.is_set():
            if self.is_up and await is_ready(self.plan.address, self.plan.ready_path):
                self._has_been_ready = True
                return
            await self._wait_unless_stopped(_PROBE_S)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Ask the child to end; kill it after its `drain_s`, or at once when somebody is in a hurry."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        ended, hurried = asyncio.ensure_future(process.wait()), asyncio.ensure_future(hurry.wait())
        patience_s = self.plan.drain_s() + _KILL_PATIENCE_S
        await asyncio.wait({ended, hurried}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        self._signal(signal.SIGKILL)
        await ended

    async def _spawn(self) -> asyncio.subprocess.Process:
        """In a session of its own: Ctrl-C in a terminal reaches the supervisor alone, which ends us in order."""
        self._process = await asyncio.create_subprocess_exec(
            *self.plan.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env={**os.environ, **parent_environment(), **self.plan.environment},
            pass_fds=self.plan.inherited_fds,
            start_new_session=True,
        )
        return self._process

    def _say_so(self, failures: int, exit_code: int) -> None:
        sentence = (
            f"{self.plan.name} ended {failures} times in a row right after its start, last with exit code {exit_code}; "
            "its own lines above say why."
        )
        if not self._has_been_ready:
            raise ChildFailed(sentence)
        sys.stderr.write(f"waypost: {sentence} It is tried again every {BACKOFF_MAX_S:.0f} s.\n")

    def _signal(self, number: signal.Signals) -> None:
        if self.is_up and self._process is not None:
            self._process.send_signal(number)

    async def _wait_unless_stopped(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
