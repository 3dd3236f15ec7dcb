"""A process that keeps outputs, and prints its peak of memory in KiB after each: for `test_file_memory`.

python -m tests.e2e.fetching DATABASE DIRECTORY ORG_ID PORT SIZE …
"""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path

import uvloop

from tests.e2e.test_file_memory import peak_kib
from waypost.app.file_wiring import build_files
from waypost.app.secrets import open_secrets
from waypost.app.settings import read_settings
from waypost.control.file_fetch import Outputs
from waypost.kit.clock import SystemClock
from waypost.kit.ids import Ids
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.upstream.guard import Allowed
from waypost.upstream.guarded_session import GuardedSession


async def fetch(database: str, directory: Path, org_id: bytes, port: int, sizes: list[int]) -> None:
    settings = read_settings(
        environment={}, data_dir=directory / "data", database_url=database, config_path=directory / "waypost.toml"
    )
    ids, pool = Ids(), Pool(database, Role.APP, size=2)
    store = build_files(settings, open_secrets(settings.secrets_dir), pool, clock=SystemClock(), ids=ids)
    session = GuardedSession(Allowed.of([f"127.0.0.1:{port}"]), ssl.create_default_context())
    outputs = Outputs(store, session, ids)
    for size in sizes:
        row = await outputs.rehost(
            org_id=org_id, execution_id=ids.new(), output_index=0, source=f"http://127.0.0.1:{port}/{size}"
        )
        assert row.size_bytes == size
        print(peak_kib(os.getpid()))
    await session.close()
    await pool.close()


if __name__ == "__main__":
    _, conninfo, place, owner, at, *asked = sys.argv
    uvloop.run(fetch(conninfo, Path(place), bytes.fromhex(owner), int(at), [int(size) for size in asked]))
