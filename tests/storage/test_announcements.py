"""A connection that only listens."""

from __future__ import annotations

import asyncio

import pytest

from waypost.storage import announcements
from waypost.storage.announcements import Announcements
from waypost.storage.roles import Role


class Frozen:
    """A connection to a server that says nothing more."""

    is_closed = False

    async def execute(self, statement: str) -> None:
        assert statement == "LISTEN here"
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.is_closed = True


async def test_a_connection_that_is_given_up_on_before_it_listens_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Frozen] = []

    async def connect(conninfo: str, role: Role) -> Frozen:
        assert (conninfo, role) == ("a database", Role.APP)
        made.append(Frozen())
        return made[-1]

    monkeypatch.setattr(announcements, "connect", connect)
    listening = Announcements("a database", Role.APP, "here")

    assert [await listening.wait(0.01) for _ in range(2)] == [[], []]

    assert [each.is_closed for each in made] == [True, True]
