"""A deployment goes into a file and comes out of it with every nano where it was."""

from __future__ import annotations

import asyncio
import tarfile
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo as conninfos

from tests.control.plane import Plane
from tests.control.uploads import picture, upload
from tests.e2e.stack import _url
from tests.gateway.disk import Disk, write
from tests.storage.books import IDS, Books, attempt, open_books
from waypost.app.backup import back_up, restore
from waypost.app.file_wiring import build_files
from waypost.app.operator import CommandRefused
from waypost.app.secrets import add_pepper, open_node_id, open_secrets
from waypost.app.settings import Settings, read_settings
from waypost.gateway.journal import Journal
from waypost.gateway.recovery import recover
from waypost.kit import ids
from waypost.kit.clock import SystemClock
from waypost.ledger.record import Balance, ClosedAttempt, NodeSuperseded
from waypost.storage.database import migrate
from waypost.storage.ledger_check import check_ledger
from waypost.storage.orgs import create_org
from waypost.storage.pool import Pool
from waypost.storage.roles import Role


def settings_of(data_dir: Path, database: str) -> Settings:
    return read_settings(environment={}, data_dir=data_dir, database_url=_url(database))


def secret_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def busy(books: Books, data_dir: Path) -> tuple[bytes, bytes, ClosedAttempt]:
    """A deployment with 1,000 nano of credit, of which 100 are booked and 150 are in a journal alone: the
    organisation, its lease, and what is in the journal."""
    directory = data_dir / "journal" / "gateway-0"
    books.node_id = open_node_id(directory)
    books.node_epoch = await books.ledger.register_node(books.node_id)
    org_id = await books.org(credit_nanos=1_000)
    lease_id = await books.grant(org_id, 400)
    booked, unbooked = attempt(org_id, lease_id, 100), attempt(org_id, lease_id, 150)
    journal = Journal.open_dir(directory, segment_bytes=64 << 10, emergency_bytes=8 << 10, files=Disk())
    write(journal, unbooked)
    await books.ledger.settle_batch([booked])
    return org_id, lease_id, unbooked


async def test_balances_are_the_same_after_a_restore_and_the_replay_of_its_journal(
    database: str, empty_database: str, tmp_path: Path
) -> None:
    old, new = settings_of(tmp_path / "old", database), settings_of(tmp_path / "new", empty_database)
    open_secrets(old.secrets_dir)
    add_pepper(old.secrets_dir, 2)
    file = tmp_path / "backup.tar.gz"
    async with open_books(database) as books:
        org_id, lease_id, unbooked = await busy(books, old.data_dir)
        await asyncio.to_thread(back_up, old, file)
        old_epoch, node_id = books.node_epoch, books.node_id
    assert file.stat().st_mode & 0o777 == 0o600

    head = await asyncio.to_thread(restore, new, file)

    assert head.has_secrets
    assert [each.version for each in open_secrets(new.secrets_dir).peppers.all] == [2, 1]
    assert secret_files(new.secrets_dir) == secret_files(old.secrets_dir)
    restored = Books(empty_database)
    directory = new.data_dir / "journal" / "gateway-0"
    assert open_node_id(directory) == node_id
    with pytest.raises(NodeSuperseded):  # whoever still runs on what was backed up
        await restored.ledger.extend(lease_id=lease_id, from_nanos=400, to_nanos=500)
    epoch = await restored.ledger.register_node(node_id)
    assert epoch > old_epoch + 1
    journal = Journal.open_dir(directory, segment_bytes=64 << 10, emergency_bytes=8 << 10, files=Disk())
    recovery = recover(journal, 0)
    assert [row.open.attempt_id for row in recovery.attempts] == [unbooked.open.attempt_id]
    await restored.ledger.settle_batch(recovery.attempts)
    await restored.ledger.finish_recovery(node_id=node_id, node_epoch=epoch)
    assert await restored.ledger.snapshot(org_id) == Balance(750, 0, 0)
    assert (await check_ledger(restored.app)).violations == ()
    for part in (restored.ledger.close_connections, restored.app.close, restored.owner.close):
        await part()


def test_an_ordinary_owner_who_was_given_the_roles_backs_up_and_restores(postgres: str, tmp_path: Path) -> None:
    user, names = "backup_owner", ("backup_one", "backup_two")
    with psycopg.connect(postgres, autocommit=True) as connection:
        try:
            connection.execute(f"CREATE ROLE {user} LOGIN IN ROLE {', '.join(role.value for role in Role)}")
            for name in names:
                connection.execute(f"CREATE DATABASE {name} OWNER {user}")
            first, second = (conninfos.make_conninfo(postgres, dbname=name, user=user) for name in names)
            migrate(first)
            asyncio.run(_make_org(first))
            back_up(settings_of(tmp_path / "one", first), tmp_path / "backup.tar.gz", with_secrets=False)
            restore(settings_of(tmp_path / "two", second), tmp_path / "backup.tar.gz")
            with psycopg.connect(second, autocommit=True) as restored:
                restored.execute("SET ROLE waypost_owner")
                restored.execute("SET waypost.scope = 'system'")
                assert restored.execute("SELECT count(*), sum(available)::bigint FROM wallet").fetchone() == (1, 10**18)
        finally:
            for name in names:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"DROP ROLE IF EXISTS {user}")


async def _make_org(conninfo: str) -> None:
    books = Books(conninfo)
    await create_org(books.app, books.ledger, org_id=IDS.new(), name="Acme", is_unlimited=True)
    await books.ledger.close_connections()
    await books.app.close()


def test_a_directory_without_secrets_is_not_taken_for_the_deployment(database: str, tmp_path: Path) -> None:
    with pytest.raises(CommandRefused, match=r"no secrets in .*typo.*--data-dir"):
        back_up(settings_of(tmp_path / "typo", database), tmp_path / "backup.tar.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_named_as_it_was_given(database: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data", database)
    with pytest.raises(CommandRefused, match=r"/missing/b\.tgz cannot be written: there is no directory .*/missing;"):
        back_up(settings, tmp_path / "missing" / "b.tgz", with_secrets=False)


def test_nothing_that_is_there_is_overwritten(database: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "data", database)
    file = tmp_path / "backup.tar.gz"
    back_up(settings, file, with_secrets=False)
    with pytest.raises(CommandRefused, match="there already"):
        back_up(settings, file)
    with pytest.raises(CommandRefused, match="not empty"):
        restore(settings, file)
    open_secrets(settings.secrets_dir)
    with pytest.raises(CommandRefused, match="there already"):
        restore(settings, file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar.gz", "data"]


@pytest.mark.parametrize("name", ["../evil", "journal/../../evil", "/evil", "else/where"])
def test_an_archive_that_leads_elsewhere_is_refused(empty_database: str, tmp_path: Path, name: str) -> None:
    file = tmp_path / "backup.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(CommandRefused, match="no backup"):
        restore(settings_of(tmp_path / "data", empty_database), file)
    assert not list(tmp_path.rglob("evil"))


def test_what_is_no_backup_is_told_so(empty_database: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar.gz"
    file.write_bytes(b"something else")
    with pytest.raises(CommandRefused, match="no backup"):
        restore(settings_of(tmp_path / "data", empty_database), file)


async def test_files_in_the_folder_are_in_the_backup_and_readable_after_a_restore(
    database: str, empty_database: str, tmp_path: Path
) -> None:
    content = picture(200_000)
    async with Plane(database, tmp_path / "old") as plane:
        file = await upload(plane, content)
        (plane.settings.data_dir / "files" / "incoming" / ("0" * 32)).write_bytes(b"half of another")
        await asyncio.to_thread(back_up, plane.settings, tmp_path / "backup.tar.gz")
    new = settings_of(tmp_path / "new", empty_database)

    await asyncio.to_thread(restore, new, tmp_path / "backup.tar.gz")

    assert [path for path in (new.data_dir / "files").rglob("*") if path.name == "0" * 32] == []
    pool = Pool(empty_database, Role.APP, size=1)
    store = build_files(new, open_secrets(new.secrets_dir), pool, clock=SystemClock(), ids=IDS)
    opened = await store.open_input(plane.org_id, ids.parse("file", file["id"]))
    assert b"".join([part async for part in opened.parts]) == content
    await pool.close()
