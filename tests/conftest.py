"""Fixtures for every test: a PostgreSQL of the run, a fresh migrated database per test, and `async def` tests.

The first test that needs a database starts one embedded PostgreSQL for the whole run, shared by all xdist workers; the
process that the run was started with stops and removes it, also after Ctrl-C; what a killed run left, the next one
removes. WAYPOST_TEST_DATABASE_URL names a server, with a role that may create databases, to use instead;
WAYPOST_TEST_POSTGRES_DIR the directory of one of ours, which many short runs share and whoever named it removes.
"""

from __future__ import annotations

import fcntl
import inspect
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings
from psycopg import conninfo as conninfos

from tests.e2e.own_server import UNLASTING, quick_place
from waypost import compiled
from waypost.kit.ids import Ids
from waypost.storage.database import migrate
from waypost.storage.embedded import EmbeddedPostgres

_DIR = pytest.StashKey[Path]()
_PREFIX = "waypost-test-"
_TEMPLATE = "waypost_template"
_URL = os.environ.get("WAYPOST_TEST_DATABASE_URL", "")
_SHARED_DIR = os.environ.get("WAYPOST_TEST_POSTGRES_DIR", "")
# Nothing of a test run must survive a power cut.
_FAST = {**UNLASTING, "max_connections": "200"}

# How long an example takes is the machine's business, and whatever else it is busy with.
settings.register_profile("waypost", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("waypost")
# For who asks only whether a test fails.
settings.register_profile("unshrunk", settings.get_profile("waypost"), phases=(Phase.explicit, Phase.generate))

if compiled.running.is_stale:
    os.environ[compiled.SWITCH] = "1"  # so that no process that a test starts has to say it again


def pytest_configure(config: pytest.Config) -> None:
    worker_input = getattr(config, "workerinput", None)
    if worker_input is not None:
        config.stash[_DIR] = Path(worker_input["postgres_dir"])
        return
    if _SHARED_DIR:
        config.stash[_DIR] = Path(_SHARED_DIR)
        return
    place = quick_place()
    config.stash[_DIR] = place / f"{_PREFIX}{os.getpid()}"
    for directory in place.glob(f"{_PREFIX}*"):
        # Ours cannot have been made yet: an earlier run with the same pid left it.
        if directory == config.stash[_DIR] or not _is_alive(directory.name.removeprefix(_PREFIX)):
            _remove(directory)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and not _SHARED_DIR:
        _remove(config.stash[_DIR])


def _is_alive(pid: str) -> bool:
    """Whether the run that a directory is named after still goes on."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):  # somebody else's
        return True
    return True


def _remove(directory: Path) -> None:
    """Stop the server of a run that could not do so itself, and take its files away."""
    server = EmbeddedPostgres(directory)
    if server.is_running:
        server.start()
        server.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: pytest.Item) -> None:
    node.workerinput["postgres_dir"] = str(node.config.stash[_DIR])  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was tested, unless it is the sources and nothing else was to be expected."""
    if compiled.running != compiled.Modules():
        terminalreporter.write_line(f"waypost: {compiled.running}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    mark = item.get_closest_marker("interpreted_only")
    if mark is not None and compiled.running.compiled:
        pytest.skip(*mark.args)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deal the slow tests evenly to the workers, who do them first: none of them is left alone with one at the end.

    `--dist worksteal` begins by cutting the list into as many equal parts as there are workers."""
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    if workers == 1:
        return
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    quick = [item for item in items if item.get_closest_marker("slow") is None]
    dealt: list[pytest.Item] = []
    for number in range(workers):
        part = (len(items) - len(dealt)) // (workers - number)
        mine = slow[number::workers]
        others = quick[: max(0, part - len(mine))]
        del quick[: len(others)]
        dealt += mine + others
    items[:] = dealt + quick


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test on the loop that the product runs on."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    uvloop.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    # Compiled code that waits within a handler leaves its exception to whatever runs next.
    assert sys.exc_info() == (None, None, None), "an exception is left over in this thread"
    return True


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[str]:
    """Conninfo of a server's maintenance database, with the migrated template beside it."""
    directory = pytestconfig.stash[_DIR]
    directory.mkdir(mode=0o700, exist_ok=True)
    server = EmbeddedPostgres(directory, settings=_FAST)
    maintenance = _URL or conninfos.make_conninfo(server.start(), dbname="postgres")
    try:
        with (directory / "template.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _make_template(maintenance)
        yield maintenance
    finally:
        server.stop()


def _make_template(maintenance: str) -> None:
    with psycopg.connect(maintenance, autocommit=True) as connection:
        known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (_TEMPLATE,)).fetchone()
        if known is None or _URL:
            connection.execute(f"DROP DATABASE IF EXISTS {_TEMPLATE}_new")
            connection.execute(f"CREATE DATABASE {_TEMPLATE}_new")
            migrate(conninfos.make_conninfo(maintenance, dbname=f"{_TEMPLATE}_new"))
            connection.execute(f"DROP DATABASE IF EXISTS {_TEMPLATE}")
            connection.execute(f"ALTER DATABASE {_TEMPLATE}_new RENAME TO {_TEMPLATE}")


@pytest.fixture
def database(postgres: str) -> Iterator[str]:
    """Conninfo of a migrated, empty database of this test's own."""
    yield from _fresh(postgres, f"TEMPLATE {_TEMPLATE} STRATEGY file_copy")


@pytest.fixture
def empty_database(postgres: str) -> Iterator[str]:
    """Conninfo of a database without any schema."""
    yield from _fresh(postgres, "")


def _fresh(maintenance: str, options: str) -> Iterator[str]:
    name = f"test_{Ids().new().hex()}"
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {options}")
        try:
            yield conninfos.make_conninfo(maintenance, dbname=name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
