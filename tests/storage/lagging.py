"""A standby that stopped receiving at a moment, made in a tenth of a second: a copy of the database as it was then.

What is done to the original afterwards is what its promotion loses. It stands on the same server, so the timeline that
the books were last found whole on is set apart from the server's by hand; for the rest it is as a real one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import conninfo as conninfos

from tests.storage.books import IDS
from waypost.gateway.ports import LedgerUnavailable
from waypost.kit.values import replace
from waypost.ledger.record import ClosedAttempt, ServerTerm
from waypost.storage.ledger import PostgresLedger


@contextmanager
def copied(conninfo: str) -> Iterator[str]:
    """Conninfo of the copy. Nobody may be connected to the original while it is made."""
    name, original = f"standby_{IDS.new().hex()}", conninfos.conninfo_to_dict(conninfo)["dbname"]
    with psycopg.connect(conninfos.make_conninfo(conninfo, dbname="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {original} STRATEGY file_copy")
        try:
            yield conninfos.make_conninfo(conninfo, dbname=name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def promote(conninfo: str, *, silent_s: float = 0.0) -> None:
    """It is the server from now on. `silent_s`: for how long nobody could reach any."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("UPDATE ledger_timeline SET timeline = 0, moved_to = NULL")
        silent = "UPDATE node SET timeline = 0, heartbeat_at = heartbeat_at - make_interval(secs => %s)"
        connection.execute(silent, (silent_s,))


def pass_time(conninfo: str, seconds: float) -> None:
    """Since the promotion was noticed."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("UPDATE ledger_timeline SET moved_at = moved_at - make_interval(secs => %s)", (seconds,))


async def _nothing() -> None:
    """Is done before a batch is booked, unless a test says otherwise."""


class Server:
    """One process's ledger behind an address that moves, with all methods of `PostgresLedger`."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self._ledger = PostgresLedger(conninfo)
        self.on_settling: Callable[[], Awaitable[None]] = _nothing
        self.is_answer_lost = False  # of releases: they are committed, and the server dies before it says so

    async def settle_batch(self, batch: Sequence[ClosedAttempt]) -> None:
        await self.on_settling()
        await self._ledger.settle_batch(batch)

    async def release(self, **parameters: Any) -> None:
        await self._ledger.release(**parameters)
        if self.is_answer_lost:
            raise LedgerUnavailable

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def move_to(self, conninfo: str) -> None:
        """To another server, or to the same one without any connection left."""
        before, is_another = self._ledger, conninfo != self.conninfo
        self.conninfo, self._ledger = conninfo, PostgresLedger(conninfo)
        standing = before._standing  # the process is the same
        if is_another and standing is not None:
            standing = replace(standing, term=ServerTerm(0, None))
        self._ledger._standing = standing
        await before.close_connections()
