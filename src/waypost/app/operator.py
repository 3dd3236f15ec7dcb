"""What an operator does with a deployment from the command line, one method per command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import msgspec

from waypost.app.database import open_database
from waypost.app.list_prices import Comparison, compare, published, with_listed_costs
from waypost.app.peppers import ListedPepper, list_peppers, restore_pepper, retire_pepper, rotate_pepper
from waypost.app.secrets import open_secrets
from waypost.app.settings import Settings
from waypost.kit import ids
from waypost.kit.clock import Clock, SystemClock
from waypost.kit.ids import Ids
from waypost.kit.money import Nanos
from waypost.ledger.bill_file import BadBill, read_bill
from waypost.ledger.record import Balance
from waypost.policy.catalogue import Catalogue
from waypost.policy.catalogue_diff import Change, changes_between
from waypost.policy.document import with_creation_times
from waypost.storage import (
    api_keys,
    budgets,
    catalogues,
    file_sweep,
    ledger_check,
    nodes,
    orgs,
    projects,
    provider_bills,
    usage,
)
from waypost.storage.funding import refund_execution
from waypost.storage.ledger import PostgresLedger
from waypost.storage.orphans import ORPHANED_AFTER_S, NodeAlive
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.tenancy.api_key import Scope, assemble
from waypost.tenancy.budget import Budget

_Result = TypeVar("_Result")
NAME_CHARACTERS_MAX = 200


class CommandRefused(Exception):
    """The command cannot be done as asked. The text is one sentence for the operator."""


class NewKey(msgspec.Struct, frozen=True):
    """A key whose text is seen this once. `previous_valid_until` after a rotation: the end of the text before it."""

    id: bytes
    text: str
    previous_valid_until: datetime | None = None


class Operator:
    """Acts on the database directly, so that it needs no running deployment. For one event loop."""

    def __init__(self, settings: Settings, conninfo: str, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._ids = Ids()
        self._pool = Pool(conninfo, Role.APP, size=1)
        self._settling = Pool(conninfo, Role.SETTLE, size=1)
        self._ledger = PostgresLedger(conninfo)

    async def close(self) -> None:
        await self._pool.close()
        await self._settling.close()
        await self._ledger.close_connections()

    async def create_org(self, name: str, *, is_unlimited: bool, in_flight_max: int | None = None) -> bytes:
        org_id = self._ids.new()
        _check_name(name)
        await orgs.create_org(
            self._pool,
            self._ledger,
            org_id=org_id,
            name=name,
            is_unlimited=is_unlimited,
            in_flight_max=in_flight_max,
        )
        if not await api_keys.are_any(self._pool):
            # Of a new deployment. Where there are keys, the secrets that they were made with stand somewhere, and
            # others beside them would open nothing.
            open_secrets(self._settings.secrets_dir)
        return org_id

    async def list_orgs(self) -> list[orgs.Org]:
        return await orgs.list_orgs(self._pool)

    async def create_project(self, org_id: bytes, *, name: str, budget: Budget | None) -> bytes:
        project_id = self._ids.new()
        _check_name(name)
        try:
            await projects.create_project(self._pool, project_id=project_id, org_id=org_id, name=name, budget=budget)
        except LookupError:
            raise _no_org(org_id) from None
        return project_id

    async def set_budget(self, owner_kind: str, owner_id: bytes, budget: Budget) -> None:
        """`owner_kind` is a budget's: organisation, project or key."""
        try:
            await budgets.set_budget(self._pool, budget, owner_id=owner_id, owner_kind=owner_kind)
        except LookupError:
            raise CommandRefused(f"there is no such {owner_kind}") from None
        except budgets.OtherPeriod as other:
            raise CommandRefused(
                f"its budget is of the window '{other.period.value}', which stays: say --window {other.period.value}"
            ) from None

    async def list_budgets(self, org_id: bytes) -> list[budgets.ListedBudget]:
        await self._check_org(org_id)
        return await budgets.list_budgets(self._pool, org_id)

    async def list_projects(self, org_id: bytes) -> list[projects.ListedProject]:
        await self._check_org(org_id)
        return await projects.list_projects(self._pool, org_id)

    async def create_key(
        self,
        org_id: bytes,
        *,
        name: str,
        scope: Scope,
        limits: api_keys.Limits,
        project_id: bytes | None = None,
        budget: Budget | None = None,
    ) -> NewKey:
        _check_name(name)
        key = NewKey(self._ids.new(), assemble(os.urandom(32)))
        try:
            await api_keys.create_api_key(
                self._pool,
                api_key_id=key.id,
                org_id=org_id,
                secret=self._kept_of(key.text),
                name=name,
                scope=scope,
                limits=limits,
                project_id=project_id,
                budget=budget,
            )
        except LookupError:
            await self._check_org(org_id)
            assert project_id is not None
            raise CommandRefused(
                f"the organisation has no project {ids.text('proj', project_id)}: see `waypost project list`"
            ) from None
        return key

    async def list_keys(self, org_id: bytes) -> list[api_keys.ListedKey]:
        await self._check_org(org_id)
        return await api_keys.list_api_keys(self._pool, org_id)

    async def revoke_key(self, key_id: bytes) -> None:
        try:
            await api_keys.revoke_api_key(self._pool, key_id)
        except LookupError:
            raise CommandRefused(f"there is no key {ids.text('key', key_id)}: see `waypost key list`") from None

    async def rotate_key(self, key_id: bytes) -> NewKey:
        text = assemble(os.urandom(32))
        try:
            until = await api_keys.rotate_api_key(self._pool, key_id, self._kept_of(text))
        except LookupError:
            shown_id = ids.text("key", key_id)
            raise CommandRefused(f"there is no key {shown_id}, or it is revoked: see `waypost key list`") from None
        return NewKey(key_id, text, until)

    async def list_peppers(self) -> list[ListedPepper]:
        return await list_peppers(self._pool, self._settings.secrets_dir)

    async def rotate_pepper(self) -> Path:
        """Where the new one stands."""
        return await rotate_pepper(self._pool, self._settings.secrets_dir)

    async def retire_pepper(self, version: int, *, is_sure: bool) -> tuple[Path, int]:
        """Where it stands now, and how many keys are refused for want of it."""
        return await retire_pepper(self._pool, self._settings.secrets_dir, version, is_sure=is_sure)

    async def restore_pepper(self, version: int) -> int:
        """How many keys are known under it alone."""
        return await restore_pepper(self._pool, self._settings.secrets_dir, version)

    async def add_credit(self, org_id: bytes, amount_nanos: Nanos, reference: str | None) -> bool:
        """Whether it was credited now; False when that reference was credited before."""
        try:
            return await self._ledger.topup(
                org_id=org_id,
                amount_nanos=amount_nanos,
                reference=reference or ids.text("credit", self._ids.new()),
            )
        except LookupError:
            raise _no_org(org_id) from None
        except ValueError as error:
            raise CommandRefused(str(error)) from None

    async def refund(self, execution_id: bytes) -> Nanos:
        """Give back what is left of its charge; 0 when it was given back before."""
        try:
            return await refund_execution(self._settling, UUID(bytes=self._ids.new()), execution_id=execution_id)
        except LookupError:
            raise CommandRefused(f"{ids.text('exec', execution_id)} was charged nothing, or is not known") from None
        except ValueError:
            raise CommandRefused("some of it was given back at this moment, by somebody else: try again") from None

    async def balance(self, org_id: bytes) -> Balance:
        try:
            return await self._ledger.snapshot(org_id)
        except LookupError:
            raise _no_org(org_id) from None

    async def usage(self, org_id: bytes, *, since: datetime | None) -> list[usage.UsageRow]:
        await self._check_org(org_id)
        since_ms = 0 if since is None else int(since.timestamp() * 1000)
        return await usage.usage_of(self._pool, org_id, since_ms=max(0, since_ms))

    async def follow_catalogue(self, catalogue: Catalogue, *, source: str) -> int | None:
        """Apply a source that is looked at again and again: the new version, or None when its content is what was last
        applied from it, so that a rollback holds."""
        return await catalogues.apply_catalogue(self._pool, catalogue, source=source, now_s=self._now_s())

    async def apply_catalogue(self, catalogue: Catalogue) -> int | None:
        """Make it the newest version: its number, or None when it is that already."""
        now_s = self._now_s()
        newest = await catalogues.newest_catalogue(self._pool)
        if newest is not None and with_creation_times(catalogue, newest[0], now_s) == newest[0]:
            return None
        # A source's unchanged content is not applied twice, so each command is a source of its own.
        source = "command" if newest is None else f"command after version {newest[1]}"
        return await catalogues.apply_catalogue(self._pool, catalogue, source=source, now_s=now_s)

    async def newest_catalogue(self) -> tuple[Catalogue, int]:
        found = await catalogues.newest_catalogue(self._pool)
        if found is None:
            raise CommandRefused("there is no catalogue yet: apply one with `waypost catalog apply FILE`")
        return found

    async def catalogue_history(self) -> list[catalogues.CatalogueVersion]:
        return await catalogues.catalogue_history(self._pool)

    async def compare_catalogues(self, before: int, after: int | None) -> list[Change]:
        """What changed from one version to another, the newest unless given."""
        try:
            old = await catalogues.catalogue_of(self._pool, before)
            new = (
                (await self.newest_catalogue())[0]
                if after is None
                else await catalogues.catalogue_of(self._pool, after)
            )
        except LookupError as error:
            raise CommandRefused(f"{error.args[0]}: see `waypost catalog history`") from None
        return changes_between(old, new)

    async def roll_back_catalogue(self, version: int) -> int:
        try:
            return await catalogues.roll_back_catalogue(self._pool, version)
        except LookupError as error:
            raise CommandRefused(f"{error.args[0]}: see `waypost catalog history`") from None

    async def compare_prices(self, model: str | None = None) -> list[Comparison]:
        """Each deployment's cost beside what its provider publishes."""
        catalogue, _ = await self.newest_catalogue()
        if model is not None and model not in {each.slug for each in catalogue.models}:
            raise CommandRefused(f"the catalogue has no model {model}: see `waypost catalog show`")
        found = compare(catalogue, published(self._now_s() * 1000))
        return [each for each in found if model in (None, each.model)]

    async def import_prices(self, model: str | None = None) -> int | None:
        """Make published prices the costs, as a new version; None when they are that already."""
        comparisons = await self.compare_prices(model)
        catalogue, _ = await self.newest_catalogue()
        return await self.apply_catalogue(with_listed_costs(catalogue, comparisons))

    async def price_history(self, model: str) -> list[tuple[catalogues.CatalogueVersion, Change]]:
        """What each version changed in a model's price and costs, the newest first."""
        versions = await self.catalogue_history()
        found: list[tuple[catalogues.CatalogueVersion, Change]] = []
        before = Catalogue()
        for version in reversed(versions):
            after = await catalogues.catalogue_of(self._pool, version.version)
            found += [
                (version, change)
                for change in changes_between(before, after)
                if change.place.startswith(f"models[{model}]")
                and (".price." in change.place or ".cost." in change.place)
            ]
            before = after
        return found[::-1]

    async def list_nodes(self) -> list[nodes.Node]:
        return await nodes.list_nodes(self._pool)

    async def retire_node(self, node_id: bytes) -> None:
        shown_id = ids.text("node", node_id)
        try:
            await self._ledger.retire_node(node_id)
        except NodeAlive:
            raise CommandRefused(
                f"{shown_id} was heard of within the last {ORPHANED_AFTER_S} s: stop it, and try again after that time"
            ) from None
        except LookupError:
            raise CommandRefused(f"there is no {shown_id}: see `waypost node list`") from None

    async def check_ledger(self) -> ledger_check.LedgerCheck:
        return await ledger_check.check_ledger(self._pool)

    async def reconcile(self, provider: str, data: bytes) -> provider_bills.Imported:
        """Import a file of a provider's usage lines, and make the cost of goods what it bills."""
        today = datetime.fromtimestamp(self._now_s(), UTC).date()
        try:
            lines = read_bill(data, oldest=provider_bills.oldest_billed(today), newest=today + timedelta(days=1))
        except BadBill as error:
            raise CommandRefused(str(error)) from None
        if not await provider_bills.is_provider_known(self._settling, provider):
            found = await catalogues.newest_catalogue(self._pool)
            known = sorted(each.id for each in found[0].providers) if found is not None else []
            if provider not in known:
                raise CommandRefused(f"there is no provider {provider}; there are: {', '.join(known) or 'none'}")
        return await provider_bills.import_bill(self._settling, self._ids, provider=provider, lines=lines, today=today)

    async def set_file_limits(self, org_id: bytes, *, ttl_days: int | None, bytes_max: int | None) -> file_sweep.Limits:
        """Change what is not None; what holds then."""
        await self._check_org(org_id)
        return await file_sweep.set_limits(self._pool, org_id, ttl_days=ttl_days, bytes_max=bytes_max)

    async def erase_files(self, org_id: bytes) -> int:
        """How many there were."""
        await self._check_org(org_id)
        return await file_sweep.erase_files_of(self._pool, org_id, datetime.fromtimestamp(self._now_s(), UTC))

    async def file_audit(self, org_id: bytes, *, limit: int) -> list[file_sweep.AuditEntry]:
        await self._check_org(org_id)
        return await file_sweep.audit_of(self._pool, org_id, limit=limit)

    def _now_s(self) -> int:
        return self._clock.unix_ns() // 1_000_000_000

    def _kept_of(self, key_text: str) -> api_keys.Secret:
        return api_keys.secret_of(key_text, open_secrets(self._settings.secrets_dir).peppers.newest)

    async def _check_org(self, org_id: bytes) -> None:
        if await orgs.find_org(self._pool, org_id) is None:
            raise _no_org(org_id)


def operate(settings: Settings, work: Callable[[Operator], Awaitable[_Result]]) -> _Result:
    """Open the database, do the work, and leave everything as it was found."""
    with open_database(settings) as conninfo:
        return act(settings, conninfo, work)


def act(settings: Settings, conninfo: str, work: Callable[[Operator], Awaitable[_Result]]) -> _Result:
    """Do the work on a database that is open."""

    async def run() -> _Result:
        operator = Operator(settings, conninfo, SystemClock())
        try:
            return await work(operator)
        finally:
            await operator.close()

    return asyncio.run(run())


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise CommandRefused(f"a name is 1 to {NAME_CHARACTERS_MAX} printable characters")


def _no_org(org_id: bytes) -> CommandRefused:
    return CommandRefused(f"there is no organisation {ids.text('org', org_id)}")
