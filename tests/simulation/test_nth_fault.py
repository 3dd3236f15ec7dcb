"""One story of money, with a fault at its N-th operation, for every N: each call to the database lost, answered to
nobody or cut off, and each write and sync of the journals failing in each way that disks and deaths do.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gateway.disk import Killed
from tests.simulation.connections import Connections, connected
from tests.simulation.failing_disk import PowerDisk
from tests.simulation.model_books import need
from tests.simulation.real import Schedule, memory
from tests.simulation.real_node import Node
from tests.simulation.still_loop import run
from waypost.gateway.ports import LedgerUnavailable
from waypost.storage.ledger_check import check_ledger

CALL_FAULTS = ("lost", "answer lost", "cut")
DISK_FAULTS = ("killed before", "killed within", "killed after", "power lost", "no space", "broken")


class Story(Schedule):
    """Two nodes and a given order of steps. Operations are counted, and the one numbered `at` meets the fault."""

    def __init__(self, directory: Path, connections: Connections, *, fault: str, at: int) -> None:
        # Amounts differ from one N to the next, the steps do not.
        super().__init__(4711 + at, directory, connections)
        self.fault = fault
        self.at = at
        self.operations = 0
        self.is_told = False  # the story, and not what is before and after it

    def is_due(self, kinds: tuple[str, ...]) -> bool:
        if self.fault not in kinds or not self.is_told:
            return False
        self.operations += 1
        return self.operations - 1 == self.at

    def make_disk(self, node: Node) -> PowerDisk:
        return FaultyDisk(self, node.unsynced.clear)

    def is_power_lost(self) -> bool:
        return self.fault == "power lost"

    async def carry(self) -> None:
        call = self.calls.pop(0)
        if not self.is_due(CALL_FAULTS):
            await call.arrive()
        elif self.fault == "answer lost":
            await call.arrive(is_answered=False)
        else:
            call.fail(LedgerUnavailable())
            call.line.is_up = self.fault != "cut"

    async def run(self) -> None:
        await self._found()
        for node in self.nodes:
            await node.start()
        self.is_told = True
        first, second = self.nodes
        for node, step in (
            *((first, Node.request),) * 3,
            (second, Node.request),
            (first, Node.progress),
            (first, Node.extend),
            (first, Node.finish),
            (first, Node.finish),
            (first, _sync),
            (first, Node.settle),
            (second, Node.finish),
            *((second, Node.request),) * 2,
            (second, Node.settle),
            (first, Node.beat),
            (second, Node.beat),
            (first, Node.finish),
            *((second, Node.finish),) * 2,
            (second, _sync),
            (first, Node.settle),
            (second, Node.settle),
        ):
            await self.take(node, step)
        self.is_told = False
        for node in self.nodes:
            if node.is_alive and (node.journal.is_failed or node.disk.is_refusing_writes):
                node.die(is_power_lost=False)
        await self.come_to_rest()

    async def take(self, node: Node, step: Callable[[Node], None]) -> None:
        """A step, and everything that follows from it."""
        needs_running = step in (Node.progress, Node.extend, Node.finish)
        if node.is_alive and (node.running or not needs_running):
            try:
                step(node)
            except (Killed, OSError):  # a sync that failed ends the process too
                self.killed.append(node)
        for _ in range(40):
            await self.let_run()
            await self.bury()
            if self.calls:
                await self.carry()
            elif not self.sleepers:
                break
        for one in self.nodes:
            one.line.is_up = one.is_alive


def _sync(node: Node) -> None:
    node.journal.maintain()


class FaultyDisk(PowerDisk):
    def __init__(self, story: Story, on_synced: Callable[[], None]) -> None:
        super().__init__(on_synced)
        self._story = story

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:  # type: ignore[override]
        if not self._story.is_due(DISK_FAULTS):
            return super().pwrite(fd, data, offset)
        match self._story.fault:
            case "no space":
                self.is_refusing_writes = True
            case "broken":
                self.is_broken = True
            case "killed before":
                raise Killed
            case "killed within":
                self.bytes_until_death = len(data) // 2
        written = super().pwrite(fd, data, offset)
        if self._story.fault in ("killed after", "power lost"):
            raise Killed
        return written

    def fdatasync(self, fd: int, /) -> None:  # type: ignore[override]
        if self._story.is_due(DISK_FAULTS):
            if self._story.fault in ("no space", "broken"):
                self.is_broken = True
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            raise Killed
        super().fdatasync(fd)


@pytest.mark.parametrize("fault", [*CALL_FAULTS, *DISK_FAULTS])
def test_a_fault_at_any_operation_costs_nobody_a_nano(database: str, fault: str) -> None:
    assert run(_told_with_each_fault(database, fault)) > 12, "hardly anything happened in the story"


async def _told_with_each_fault(database: str, fault: str) -> int:
    """How many operations the story has."""
    at = 0
    async with connected(database) as connections:
        while True:
            with tempfile.TemporaryDirectory(dir=memory()) as directory:
                story = Story(Path(directory), connections, fault=fault, at=at)
                try:
                    await story.run()
                except BaseException:  # whatever it is, its place is told
                    print(f"{fault} at operation {at}")
                    raise
            if story.operations <= at:
                break
            at += 1
        need((await check_ledger(connections.app)).violations == (), "a rule of the books is broken")
    return at
