"""The demo's account and catalogue, in a database that may have been somebody's before."""

from __future__ import annotations

import asyncio
from pathlib import Path

from waypost.demo.account import Account, open_account
from waypost.demo.card import set_aside_note
from waypost.demo.offer import LOCAL, SIMULATED, catalogue_of
from waypost.policy.catalogue import Catalogue
from waypost.storage.catalogues import apply_catalogue, roll_back_catalogue
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.tenancy.pepper import Pepper


def test_a_catalogue_that_gives_way_to_the_demos_is_named(database: str) -> None:
    own, other = catalogue_of(SIMULATED, 9100), catalogue_of(LOCAL, 9101)
    opened = open_account(database, Account(upstream_key="k"), own, pepper=Pepper(1, b"p" * 32))
    account, told = opened.account, [opened.set_aside]

    def open_again(catalogue: Catalogue) -> int | None:
        return open_account(database, account, catalogue, pepper=Pepper(1, b"p" * 32)).set_aside

    told += [open_again(own), open_again(other)]  # version 2 is the demo's too
    asyncio.run(_apply(database, catalogue_of(SIMULATED, 9102)))
    told += [open_again(own), open_again(own)]
    asyncio.run(_roll_back(database, 3))
    told += [open_again(own)]

    assert told == [None, None, None, 3, None, 5]


def test_the_way_back_names_the_data_directory() -> None:
    note = set_aside_note(4, Path("/srv/my data"))
    assert note.endswith("it comes back by: waypost catalog rollback 4 --data-dir '/srv/my data'")


async def _apply(database: str, catalogue: Catalogue) -> None:
    pool = Pool(database, Role.APP, size=1)
    assert await apply_catalogue(pool, catalogue, source="command", now_s=1) == 3
    await pool.close()


async def _roll_back(database: str, version: int) -> None:
    pool = Pool(database, Role.APP, size=1)
    assert await roll_back_catalogue(pool, version) == 5
    await pool.close()
