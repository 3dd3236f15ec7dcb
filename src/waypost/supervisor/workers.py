"""The gateways of one `up`: as many as there are sockets, and their replacement one after the other.

A replacement serves on the same socket before the one it replaces is asked to end, under a name that is free: a name
has a journal and a node of its own, so no two processes may have the same. With N gateways there are N + 1 names.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import msgspec

from waypost.gateway.shared_rings import LIMIT_REGIONS, rings_bytes
from waypost.supervisor.child import Child, ChildFailed, ChildPlan
from waypost.supervisor.inheritance import Inheritance
from waypost.telemetry.events import WorkerNotReplaced, WorkerReplaced, emit

REPLACEMENT_READY_S = 60.0  # a start waits for the database; after this the old process is kept
_SETTLE_S = 12.0  # what a gateway may take for its books after the last answer
_SOCKET_PATH_BYTES_MAX = 103  # sun_path of macOS with its end; Linux has four more


class PathTooLong(Exception):
    """The data directory's path does not fit a Unix socket's."""


class WorkersPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How many gateways, and how each is run."""

    count: int
    command: tuple[str, ...]
    run_dir: Path  # of their internal sockets
    drain_s: Callable[[], float]
    control_socket: str = ""  # of the control process that runs beside them


class Workers:
    """`start` them, `roll` when asked, `stop` at the end."""

    def __init__(self, plan: WorkersPlan, sockets: Sequence[socket.socket]) -> None:
        self._plan = plan
        self._sockets = sockets
        self._limits = _shared_memory(plan.count + 1) if plan.count > 1 else None
        self.children = [self._child(number, f"gateway-{number}") for number in range(plan.count)]
        self._free_name = f"gateway-{plan.count}"
        self._ending: list[Child] = []  # those that are being replaced, and replacements that are not ready yet
        self._is_stopping = False

    @property
    def all(self) -> list[Child]:
        """Those that serve, and those that come or go."""
        return [*self.children, *self._ending]

    def start(self, tasks: asyncio.TaskGroup) -> None:
        for child in self.children:
            tasks.create_task(child.run())

    async def roll(self, tasks: asyncio.TaskGroup, hurry: asyncio.Event) -> None:
        """Replace each by a new process. Stops, and keeps the rest as they are, when a new one does not get ready."""
        for number, old in enumerate(tuple(self.children)):
            if self._is_stopping:
                return
            new = self._child(number, self._free_name)
            self._ending.append(new)
            if not await self._gets_ready(new, tasks):
                await new.stop(hurry)
                self._ending.remove(new)
                if not self._is_stopping:
                    emit(WorkerNotReplaced(process=old.plan.name))
                return
            self.children[number] = new
            self._ending[:] = [old]
            self._free_name = old.plan.name
            await old.stop(hurry)
            self._ending.clear()
            (self._plan.run_dir / f"{old.plan.name}.sock").unlink(missing_ok=True)
            emit(WorkerReplaced(process=old.plan.name))

    async def stop(self, hurry: asyncio.Event) -> None:
        self._is_stopping = True
        await asyncio.gather(*(child.stop(hurry) for child in self.all))
        if self._limits is not None:
            self._limits.close()

    async def _gets_ready(self, new: Child, tasks: asyncio.TaskGroup) -> bool:
        running = tasks.create_task(_run_on_trial(new))
        waiting = asyncio.ensure_future(new.wait_ready())
        await asyncio.wait({running, waiting}, timeout=REPLACEMENT_READY_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return new.is_up and waiting.done() and not running.done()

    def _child(self, number: int, name: str) -> Child:
        path = self._plan.run_dir / f"{name}.sock"
        check_socket_path(path)
        fds = [each.fileno() for each in self._sockets]
        listen_fd = fds[number % len(fds)]
        inheritance = Inheritance(
            process=name,
            internal_socket=path,
            listen_fd=listen_fd,
            sibling_fds=tuple(fd for fd in fds if fd != listen_fd),
            workers=self._plan.count,
            control_socket=self._plan.control_socket,
            limits_fd=None if self._limits is None else self._limits.fileno(),
            column=int(name.rpartition("-")[2]),
        )
        return Child(
            ChildPlan(
                name=name,
                command=self._plan.command,
                environment=inheritance.environment(),
                address=path,
                ready_path="/readyz",
                inherited_fds=tuple(fds) if self._limits is None else (*fds, self._limits.fileno()),
                drain_s=lambda: self._plan.drain_s() + _SETTLE_S,
            )
        )


def _shared_memory(names: int) -> IO[bytes]:
    """In which gateways of that many names count limits together. It is gone with the last of them."""
    size = rings_bytes(names, regions=LIMIT_REGIONS)
    if hasattr(os, "memfd_create"):  # Linux
        memory: IO[bytes] = open(os.memfd_create("waypost-limits"), "r+b", buffering=0)  # noqa: SIM115  ours to close
    else:
        memory = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    memory.truncate(size)
    return memory


def check_socket_path(path: Path) -> None:
    """Raises PathTooLong when nobody could listen there."""
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
        raise PathTooLong


async def _run_on_trial(child: Child) -> None:
    """That a replacement cannot start is no reason to end what serves."""
    try:
        await child.run()
    except ChildFailed:
        return
