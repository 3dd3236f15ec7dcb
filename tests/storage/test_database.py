"""The schema: made by migrations, described by the data map, and closed to the wrong eyes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from waypost.privacy.data_map import drift, mistakes, sentence
from waypost.storage.database import live_columns, migrate
from waypost.storage.health import is_migrated
from waypost.storage.tables import METADATA, data_map


def test_every_column_of_a_migrated_database_is_in_the_map_and_the_other_way_round(database: str) -> None:
    assert drift(data_map(), live_columns(database)) == []


def test_the_map_is_sound() -> None:
    assert mistakes(data_map()) == []


def test_a_column_nobody_described_is_found(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE execution ADD COLUMN prompt text")
    assert drift(data_map(), live_columns(database)) == ["execution.prompt: in the database, but not in the map"]


def test_the_tables_say_what_the_migrations_make(database: str) -> None:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": _is_described})
        differences = compare_metadata(context, METADATA)
    engine.dispose()
    # What a comment should say is the data map's business, and another test's.
    assert [difference for difference in differences if not _is_about_comments(difference)] == []


def _is_about_comments(difference: object) -> bool:
    return isinstance(difference, list) and all(change[0] == "modify_comment" for change in difference)


def _is_described(
    _thing: object, name: str | None, kind: str, _is_reflected: bool, _compared_to: object
) -> bool:  # indexes and constraints live in the migrations alone; partitions are made as time goes by
    return kind == "column" or (kind == "table" and name in METADATA.tables)


def test_each_column_carries_its_description_as_a_comment(database: str) -> None:
    with psycopg.connect(database) as connection:
        shown: dict[str, str] = dict(
            connection.execute(
                "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute"
                " WHERE attrelid = 'execution'::regclass AND attnum > 0"
            ).fetchall()
        )
    described = {column.name: column.annotation for column in data_map().columns if column.table == "execution"}
    assert shown == {name: sentence(said) for name, said in described.items() if said is not None}


def test_columns_are_described_anew_when_what_they_are_described_with_has_changed(database: str) -> None:
    query = "SELECT col_description('wallet'::regclass, 1), obj_description('alembic_version'::regclass)"
    with psycopg.connect(database, autocommit=True) as connection:
        before = connection.execute(query).fetchone()
        connection.execute("SET ROLE waypost_owner")
        connection.execute("COMMENT ON COLUMN wallet.org_id IS 'as an older one said'")
        connection.execute("COMMENT ON TABLE alembic_version IS 'described by an older one'")
        migrate(database)
        assert connection.execute(query).fetchone() == before


def test_a_schema_that_is_current_costs_no_more_than_a_look(database: str) -> None:
    source = f"import sys; from waypost.storage.database import migrate; migrate({database!r})"
    subprocess.run([sys.executable, "-c", f"{source}; sys.exit('sqlalchemy' in sys.modules)"], check=True)


def test_migrating_at_the_same_time_or_again_changes_nothing(empty_database: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(migrate, [empty_database] * 3))
    migrate(empty_database)
    assert drift(data_map(), live_columns(empty_database)) == []


def test_a_migration_that_fails_half_way_leaves_nothing_and_can_be_tried_again(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE account (in_the_way int)")  # a late revision makes one
        with pytest.raises(sqlalchemy.exc.ProgrammingError):
            migrate(empty_database)
        found = connection.execute("SELECT to_regclass('wallet'), to_regclass('alembic_version')").fetchone()
        assert found == (None, None)
        connection.execute("DROP TABLE account")
    migrate(empty_database)
    assert is_migrated(empty_database)
