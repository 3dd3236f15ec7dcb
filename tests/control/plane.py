"""The control plane in this process, on a real database, called as its server calls it.

async with Plane(database, tmp_path) as plane:
    answer = await plane.ask("GET", "/v1/api-keys")
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, LiteralString

import msgspec
from psycopg import conninfo as conninfos
from starlette.applications import Starlette
from starlette.types import Message

from tests.e2e.stack import _url
from tests.stores.vaults import FakeVault
from waypost.app.callbacks import make_addresses, make_callbacks
from waypost.app.file_wiring import build_files
from waypost.app.operator import NewKey, Operator
from waypost.app.secrets import open_peppers, open_secrets
from waypost.app.settings import Settings, read_settings
from waypost.app.webhooks import Webhooks
from waypost.control.application import build
from waypost.control.services import Services
from waypost.kit.clock import SystemClock
from waypost.kit.ids import Ids
from waypost.policy.catalogue import Catalogue
from waypost.policy.snapshot import build_view
from waypost.storage.api_keys import Limits, api_keys_since
from waypost.storage.asynchronous_executions import Executions
from waypost.storage.execution_news import ExecutionNews
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.telemetry.metrics import Page
from waypost.tenancy.api_key import Scope
from waypost.tenancy.budget import Budget
from waypost.tenancy.keyring import Keyring

API_KEYS_MAX = 4


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class MovableClock(SystemClock):
    """The machine's, and as many seconds ahead of it as a test likes."""

    __slots__ = ("_ahead_s",)

    def __init__(self) -> None:
        self._ahead_s = 0

    def step_s(self, seconds: int) -> None:
        self._ahead_s += seconds

    def unix_ns(self) -> int:
        return time.time_ns() + self._ahead_s * 1_000_000_000


class Plane:
    """One organisation with a key of full access, `key`."""

    def __init__(self, database: str, directory: Path, catalogue: Catalogue | None = None, *, config: str = "") -> None:
        """`config` is the text of a configuration file."""
        self._database = conninfos.make_conninfo(database)
        self._directory = directory
        directory.mkdir(exist_ok=True)
        (directory / "waypost.toml").write_text(config)
        self.clock = MovableClock()
        self.ids = Ids()
        self.view = build_view(catalogue or Catalogue(), 1)
        self.vault = FakeVault()
        self.is_ready = True

    async def __aenter__(self) -> Plane:
        self.operator = Operator(self.settings, self._database, self.clock)
        self.org_id = await self.operator.create_org("tests", is_unlimited=False)
        secrets = open_secrets(self.settings.secrets_dir)
        self.keyring = Keyring(secrets.peppers)
        self.pool = Pool(self._database, Role.APP, size=4)
        self.books = Pool(self._database, Role.SETTLE, size=4)
        self.executions = Executions(self.books, self.ids)
        news = ExecutionNews(self._database)
        self._listening = asyncio.ensure_future(news.run())
        self.key = await self.make_key(self.org_id)
        self.files = build_files(self.settings, secrets, self.pool, clock=self.clock, ids=self.ids)
        self.webhooks = Webhooks(
            self.settings.live, self._database, secrets, clock=self.clock, ids=self.ids, page=Page()
        )
        self.addresses = make_addresses(secrets, lambda: self.settings.live.public_url)
        self.services = Services(
            pool=self.pool,
            executions=self.executions,
            news=news,
            vault=self.vault,
            keyring=self.keyring,
            ids_key=secrets.ids_key,
            view=lambda: self.view,
            clock=self.clock,
            ids=self.ids,
            api_keys_max=API_KEYS_MAX,
            is_ready=lambda: self.is_ready,
            metrics=lambda: b"",
            files=self.files,
            callbacks=make_callbacks(
                self.addresses, self.webhooks.session, self.pool, lambda: self.view, clock=self.clock
            ),
            webhooks=self.webhooks.services,
        )
        self.application = build(self.services, _nothing_around)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.cancel()
        await asyncio.wait([self._listening])
        await self.webhooks.close()
        await self.pool.close()
        await self.books.close()
        await self.operator.close()

    @property
    def settings(self) -> Settings:
        return read_settings(
            environment={},
            data_dir=self._directory / "data",
            database_url=_url(self._database),
            config_path=self._directory / "waypost.toml",
        )

    async def make_key(
        self,
        org_id: bytes,
        scope: Scope = Scope.FULL,
        limits: Limits | None = None,
        *,
        project_id: bytes | None = None,
        budget: Budget | None = None,
    ) -> NewKey:
        key = await self.operator.create_key(
            org_id, name="tests", scope=scope, limits=limits or Limits(), project_id=project_id, budget=budget
        )
        await self.follow()
        return key

    async def follow(self) -> None:
        """Take in changed keys, as the process does within a second."""
        keys, version = await api_keys_since(self.pool, self.keyring.version)
        self.keyring.adopt(keys, version, self.clock.unix_ns() // 1_000_000)

    async def take_peppers(self) -> None:
        """Take those in force now, as the process does within a second."""
        self.keyring.use(open_peppers(self.settings.secrets_dir))
        await self.follow()

    async def rows(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        async with self.pool.system() as connection:
            return await (await connection.execute(query, parameters)).fetchall()

    async def ask(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        hear: Callable[[bytes], None] = lambda _: None,
    ) -> Answer:
        """`body` is bytes as they are, or a value to be sent as JSON. `key` is the organisation's by default. `hear` is
        told each part of the answer's body as it is sent."""
        path, _, query = target.partition("?")
        sent = {"authorization": f"Bearer {self.key.text if key is None else key}", **(headers or {})}
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }
        messages: list[Message] = []

        is_received = False

        async def receive() -> Message:
            nonlocal is_received
            if is_received:
                await asyncio.Event().wait()  # the caller stays
            is_received = True
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Message) -> None:
            messages.append(message)
            hear(message.get("body", b""))

        # Starlette raises a bug once more after having answered it, for servers that log: a test must fail by it.
        await self.application(scope, receive, send)
        start = messages[0]
        shown = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], shown, b"".join(each.get("body", b"") for each in messages[1:]))


@contextlib.asynccontextmanager
async def _nothing_around(_: Starlette) -> AsyncIterator[None]:
    yield
