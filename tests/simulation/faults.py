"""Where the work on an execution breaks: the process is lost, or the other side does not answer, or has done what it
was asked and nobody is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from psycopg import AsyncConnection

from tests.stores.vaults import FakeVault
from waypost.ledger.record import LedgerUnavailable
from waypost.storage.pool import Pool
from waypost.stores.vault import VaultUnavailable


class Crash(BaseException):
    """The process is gone."""


class Faults:
    """Where the running job breaks: at the how-manieth passage, and how."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._left = dice.choice((0, 0, 1, 3, 6))  # of this schedule
        self._until = 0
        self.kind = ""
        self.happened: Counter[str] = Counter()

    def begin(self) -> None:
        """A job starts."""
        self.kind = ""
        if self._left and self._dice.random() < 0.6:
            self._until = self._dice.randrange(1, 14)
            self.kind = self._dice.choice(("crash", "crash", "unavailable"))

    def end(self) -> None:
        self.kind = ""

    def pass_by(self, place: str, unavailable: type[Exception] | None) -> None:
        """Raises Crash, or what it is when the other side does not answer."""
        if not self.kind or (unavailable is None and self.kind != "crash"):
            return
        self._until -= 1
        if self._until > 0:
            return
        kind, self.kind = self.kind, ""
        self._left -= 1
        self.happened[f"{kind} {place}"] += 1
        if kind == "crash":
            raise Crash
        assert unavailable is not None
        raise unavailable


class FaultyPool(Pool):
    """Lends connections through `faults`: one that breaks after the loan has done all that it was to do."""

    faults: Faults | None = None

    @asynccontextmanager
    async def connection(self, *, is_patient: bool = False) -> AsyncIterator[AsyncConnection]:
        if self.faults is not None:
            self.faults.pass_by("before the database", LedgerUnavailable)
        async with super().connection(is_patient=is_patient) as connection:
            yield connection
        if self.faults is not None:
            self.faults.pass_by("after the database", LedgerUnavailable)


class FaultyVault(FakeVault):
    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    async def check(self) -> None:
        self._faults.pass_by("at the vault", VaultUnavailable)
