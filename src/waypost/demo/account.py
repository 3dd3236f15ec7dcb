"""The demo's own customer: an organisation, a key and 5 USD, made once and found again by every later run."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import msgspec

from waypost.kit import ids
from waypost.kit.clock import SystemClock
from waypost.kit.ids import Ids
from waypost.kit.money import parse_usd
from waypost.kit.values import replace
from waypost.ledger.record import Balance
from waypost.policy.catalogue import Catalogue
from waypost.policy.document import with_creation_times
from waypost.storage import api_keys, catalogues, orgs
from waypost.storage.ledger import PostgresLedger
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.tenancy.api_key import Scope, assemble, shown
from waypost.tenancy.pepper import Pepper

CREDIT = parse_usd("5")
_NAME = "demo"
_SOURCE = "demo at "  # of a catalogue's version, and then the moment


class Account(msgspec.Struct, frozen=True):
    """What `demo.json` keeps. The key stands in it in clear, for its owner to paste; the file is 0600."""

    upstream_key: str  # between our gateway and the model on this machine
    upstream_port: int = 0
    embeddings_port: int = 0
    org_id: str = ""
    api_key: str = ""


class Opened(msgspec.Struct, frozen=True):
    """What `open_account` found or made."""

    account: Account
    balance: Balance
    set_aside: int | None  # the version of the catalogue, of somebody's command or file, that gave way to the demo's


_decode = msgspec.json.Decoder(Account).decode
_encode = msgspec.json.Encoder().encode


def read_account(path: Path) -> Account:
    """What an earlier run kept; a new one when there is none, or it cannot be read."""
    try:
        return _decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return Account(upstream_key=os.urandom(24).hex())


def keep_account(path: Path, account: Account) -> None:
    """Write it whole, for its owner only."""
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".demo-")  # 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(_encode(account))
    Path(unfinished).replace(path)


def open_account(conninfo: str, account: Account, catalogue: Catalogue, *, pepper: Pepper) -> Opened:
    """The account with an organisation, a key and credit that exist in this database; the catalogue is in force.
    Blocks."""
    return asyncio.run(_Books(conninfo).open(account, catalogue, pepper))


class _Books:
    def __init__(self, conninfo: str) -> None:
        self._pool = Pool(conninfo, Role.APP, size=1)
        self._ledger = PostgresLedger(conninfo)
        self._ids = Ids()

    async def open(self, account: Account, catalogue: Catalogue, pepper: Pepper) -> Opened:
        try:
            set_aside = await self._put_in_force(catalogue)
            if not await self._is_known(account):
                account = await self._create(account, pepper)
            org_id = ids.parse("org", account.org_id)
            reference = f"demo-{account.org_id}"  # of its own, so that it is credited once
            await self._ledger.topup(org_id=org_id, amount_nanos=CREDIT, reference=reference)
            return Opened(account, await self._ledger.snapshot(org_id), set_aside)
        finally:
            await self._pool.close()
            await self._ledger.close_connections()

    async def _is_known(self, account: Account) -> bool:
        """Whether this database knows the organisation, and the key is still valid."""
        if not account.api_key:
            return False
        org_id = ids.parse("org", account.org_id)
        if await orgs.find_org(self._pool, org_id) is None:
            return False
        listed = await api_keys.list_api_keys(self._pool, org_id)
        return any((each.prefix, each.last_four) == shown(account.api_key) and not each.valid_until for each in listed)

    async def _create(self, account: Account, pepper: Pepper) -> Account:
        org_id, api_key = self._ids.new(), assemble(os.urandom(32))
        await orgs.create_org(self._pool, self._ledger, org_id=org_id, name=_NAME)
        await api_keys.create_api_key(
            self._pool,
            api_key_id=self._ids.new(),
            org_id=org_id,
            secret=api_keys.secret_of(api_key, pepper),
            name=_NAME,
            scope=Scope.FULL,
            limits=api_keys.Limits(),
        )
        return replace(account, org_id=ids.text("org", org_id), api_key=api_key)

    async def _put_in_force(self, catalogue: Catalogue) -> int | None:
        """Make it the newest version unless it is; the one before, where that is not the demo's own. The source names
        the moment, since a source's unchanged content would otherwise not be applied again after another catalogue
        came between."""
        now_s = SystemClock().unix_ns() // 1_000_000_000
        newest = await catalogues.newest_catalogue(self._pool)
        if newest is not None and with_creation_times(catalogue, newest[0], now_s) == newest[0]:
            return None
        before = await catalogues.catalogue_history(self._pool, count=1)
        await catalogues.apply_catalogue(self._pool, catalogue, source=f"{_SOURCE}{now_s}", now_s=now_s)
        return next((each.version for each in before if not each.source.startswith(_SOURCE)), None)
