"""A whole product for a test: a simulator, a real gateway process on a database of its own, an organisation and a key.

async with Stack(database, tmp_path) as stack:
    answer = await stack.chat({"model": "swift-1", "messages": [...]})
    assert answer.status == 200
    await stack.settled()
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import quote

import msgspec
from psycopg import AsyncConnection
from psycopg import conninfo as conninfos

from waypost.app.operator import NewKey, Operator
from waypost.app.settings import Settings, read_settings
from waypost.kit.clock import SystemClock
from waypost.kit.money import NANOS_PER_USD
from waypost.ledger.record import Balance
from waypost.policy.document import read_catalogue
from waypost.simulator import Simulator
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import Scope

STYLES = ("alpha", "beta", "gamma")
UPSTREAM_MODEL = "zephyr-upstream-9000"
PATIENCE_S = 120.0  # with what takes seconds at most, on a machine that others use; half of what a test may take
KNOWN_WITHIN_S = 10.0  # what changes at a key; the promise is 2 s, and a busy machine may take longer to run the test
PROVIDER_KEY = "pk-secret-of-the-operator-4711"
PRICE = {"input": "2.50", "cache_read": "0.25", "output": "10.00"}
COST = {"input": "2.00", "cache_read": "0.20", "output": "8.00"}
COUNTS: list[tuple[str, dict[str, Any]]] = [  # requests that count tokens: path and body
    ("/v1/messages/count_tokens", {"model": "swift-1", "messages": [{"role": "user", "content": "Count me."}]}),
    ("/v1beta/models/swift-1:countTokens", {"contents": [{"parts": [{"text": "Count me."}]}]}),
]


class Answer(msgspec.Struct):
    """An HTTP answer: its raw bytes as they came, and the parts. A chunked body is joined in `body`."""

    raw: bytes
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[str]:
        """The `data:` values of a stream."""
        return [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]

    @property
    def chunks(self) -> list[Any]:
        return [json.loads(event) for event in self.events if event != "[DONE]"]

    @property
    def text(self) -> str:
        """What the model said, of a plain answer or a stream."""
        if self.headers["content-type"].startswith("text/event-stream"):
            deltas = [choice["delta"] for chunk in self.chunks for choice in chunk.get("choices", ())]
            return "".join(delta.get("content") or "" for delta in deltas)
        return cast(str, self.json["choices"][0]["message"]["content"])


class Stack:
    """`document` is the catalogue as the TOML would parse, or what writes it once the simulator has an address; without
    one there is one model on the simulator's three styles."""

    patience_s = 90.0  # with a process that ends, or starts

    def __init__(
        self,
        database: str,
        directory: Path,
        *,
        document: Mapping[str, Any] | Callable[[Simulator], Mapping[str, Any]] | None = None,
        credit_usd: int = 5,
        limits: Limits | None = None,
        environment: Mapping[str, str] | None = None,
        simulator: Simulator | None = None,
    ) -> None:
        self.database = database
        self.data_dir = directory / "data"
        self.sim = simulator or Simulator()
        self.log: list[dict[str, Any]] = []
        self.log_text = b""
        self.port = 0
        self.org_id = b""
        self.key = NewKey(id=b"", text="")
        self._document = document
        self._credit_usd = credit_usd
        self._limits = limits or Limits()
        self._environment = {**os.environ, "TEST_PROVIDER_KEY": PROVIDER_KEY, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._operator: Operator | None = None

    async def __aenter__(self) -> Self:
        await self.sim.__aenter__()
        try:
            await self._set_up()
        except BaseException:
            await self.__aexit__()  # else the loop would wait for what was opened, for ever
            raise
        return self

    async def _set_up(self) -> None:
        self.sim.set_prices({UPSTREAM_MODEL: COST})
        self._operator = Operator(self.settings, self.database, SystemClock())
        self.org_id = await self.operator.create_org("tests", is_unlimited=False)
        self.key = await self.operator.create_key(self.org_id, name="tests", scope=Scope.FULL, limits=self._limits)
        if self._credit_usd:
            await self.operator.add_credit(self.org_id, self.credit_nanos, "test")
        given = self._document or document
        await self.apply(given(self.sim) if callable(given) else given)
        await self.start()

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            await self.stop()
        if self._operator is not None:
            await self._operator.close()
        await self.sim.__aexit__()

    @property
    def operator(self) -> Operator:
        assert self._operator is not None
        return self._operator

    @property
    def settings(self) -> Settings:
        return read_settings(environment={}, data_dir=self.data_dir, database_url=_url(self.database))

    @property
    def credit_nanos(self) -> int:
        """What the organisation was given."""
        return self._credit_usd * NANOS_PER_USD

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def apply(self, wanted: Mapping[str, Any]) -> None:
        """A new catalogue version."""
        catalogue = read_catalogue(dict(wanted))
        await self.operator.apply_catalogue(catalogue)

    async def adopt(self, wanted: Mapping[str, Any]) -> None:
        """A new catalogue version, in force in the running gateway."""
        before = (await self.request("GET", "/readyz")).json["catalogue_version"]
        await self.apply(wanted)

        async def is_in_force() -> bool:
            return bool((await self.request("GET", "/readyz")).json["catalogue_version"] != before)

        await eventually(is_in_force)

    async def start(self) -> None:
        """Start the gateway and wait until it serves."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "waypost", "gateway", "--port", "0"),
            *("--data-dir", str(self.data_dir), "--database-url", _url(self.database)),
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.ensure_future(self._read_log(started))
        async with asyncio.timeout(90):
            self.port = await started

    async def _read_log(self, started: asyncio.Future[int]) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.log_text += line
            event = json.loads(line) if line.startswith(b"{") else {"event": "text"}
            self.log.append(event)
            if event["event"] == "ProcessStarted" and not started.done():
                started.set_result(int(event["port"]))
        if not started.done():
            started.set_exception(RuntimeError(self.log_text.decode()))

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL: what a crash, or the OOM killer, does."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: int) -> int:
        assert self._process is not None
        assert self._reading is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        async with asyncio.timeout(self.patience_s):
            code = await self._process.wait()
            await self._reading
        self._process = None
        return code

    async def chat(self, body: Mapping[str, Any] | bytes, **options: Any) -> Answer:
        """`POST /v1/chat/completions`."""
        return await self.request("POST", "/v1/chat/completions", body, **options)

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        source: str = "127.0.0.1",
    ) -> Answer:
        """One request on a connection of its own, read to the end of the connection."""
        return await exchange(self.port, method, path, body, headers=self._with_key(headers, key), source=source)

    async def connect(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send one request and leave the reading to the caller."""
        return await connect(self.port, method, path, body, headers=self._with_key(headers, key))

    def _with_key(self, headers: Mapping[str, str] | None, key: str | None) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key.text if key is None else key}", **(headers or {})}

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A query of the books as their owner."""
        async with await AsyncConnection.connect(self.database, autocommit=True) as connection:
            await connection.execute("SET waypost.scope = 'system'")
            return await (await connection.execute(cast(Any, query))).fetchall()

    async def metrics(self) -> dict[str, float]:
        """The gateway's own figures: `name` or `name{labels}` to value."""
        reader, writer = await asyncio.open_unix_connection(self.data_dir / "run" / "gateway.sock")
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        page = parse(await reader.read()).body.decode()
        writer.close()
        lines = [line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    async def at_rest(self) -> dict[str, float]:
        """Wait until nothing runs, is held, waits to be booked or uses a provider's connection; the metrics then."""
        seen: dict[str, float] = {}

        async def is_at_rest() -> bool:
            seen.update(await self.metrics())
            waiting = [seen[f"waypost_{name}"] for name in ("executions_running", "holds_open", "settlements_waiting")]
            is_idle = not any(waiting) and seen["waypost_upstream_open"] == seen["waypost_upstream_idle"]
            return is_idle and not (await self.operator.balance(self.org_id)).held_nanos

        await eventually(is_at_rest)
        return seen

    async def balance_at_rest(self) -> Balance:
        """The organisation's, with everything in it that was asked for until now: an answered call is in the balance a
        moment after its caller has the answer."""
        await self.at_rest()
        return await self.operator.balance(self.org_id)

    async def executions(self, count: int) -> list[dict[str, Any]]:
        """The metadata rows, oldest first, once there are that many."""
        names = "id, model, outcome, status, error_code, attempts, charge, input_tokens, output_tokens, is_estimated"
        rows: list[tuple[Any, ...]] = []

        async def are_there() -> bool:
            rows[:] = await self.rows(f"SELECT {names} FROM execution ORDER BY id")
            return len(rows) >= count

        await eventually(are_there)
        assert len(rows) == count
        return [dict(zip(names.split(", "), row, strict=True)) for row in rows]

    async def settlements(self) -> list[dict[str, Any]]:
        names = "attempt_id, execution_id, provider, outcome, charge, cogs, is_estimated"
        rows = await self.rows(f"SELECT {names} FROM settlement ORDER BY attempt_id")
        return [dict(zip(names.split(", "), row, strict=True)) for row in rows]


def provider(sim: Simulator, provider_id: str, style: str = "alpha", **fields: Any) -> dict[str, Any]:
    """A `[[providers]]` table."""
    return {
        "id": provider_id,
        "kind": "openai",
        "base_url": sim.base_url(style),
        "api_keys": ["env:TEST_PROVIDER_KEY"],
        "cancel_stops_billing": "yes",
        **fields,
    }


def deployment(provider_id: str, upstream_model: str = UPSTREAM_MODEL, **fields: Any) -> dict[str, Any]:
    return {"provider": provider_id, "upstream_model": upstream_model, "cost": COST, **fields}


def model(slug: str, *deployments: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A `[[models]]` table; the deployments are tried in this order unless they say otherwise."""
    return {
        "slug": slug,
        "modality": "chat",
        "context_window": 128_000,
        "max_output": 8192,
        "features": ["tools", "vision", "json_schema"],
        "price": PRICE,
        "deployments": [{"priority": at, **each} for at, each in enumerate(deployments, 1)],
        **fields,
    }


def document(sim: Simulator, styles: tuple[str, ...] = STYLES, **fields: Any) -> dict[str, Any]:
    """A catalogue of one model, on these styles in this order of preference. Further words go into each provider."""
    deployments = [deployment(f"{style}-provider") for style in styles]
    return {
        "providers": [provider(sim, f"{style}-provider", style, **fields) for style in styles],
        "models": [model("swift-1", *deployments, aliases=["gpt-4o-mini"])],
    }


def ask(text: str = "Say something.", **fields: Any) -> dict[str, Any]:
    """A request body."""
    return {"model": "swift-1", "messages": [{"role": "user", "content": text}], **fields}


async def eventually(check: Callable[[], Awaitable[bool]], timeout_s: float = PATIENCE_S) -> None:
    """Ask until it holds: for what another process does without telling us. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not await check():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def exchange(
    port: int,
    method: str,
    path: str,
    body: Mapping[str, Any] | bytes = b"",
    *,
    headers: Mapping[str, str] | None = None,
    source: str = "127.0.0.1",
) -> Answer:
    """One request to a port of this machine, on a connection of its own, from an address of this machine."""
    reader, writer = await connect(port, method, path, body, headers=headers, source=source)
    try:
        async with asyncio.timeout(PATIENCE_S):
            raw = await reader.read()
    finally:
        writer.close()
    return parse(raw)


async def connect(
    port: int,
    method: str,
    path: str,
    body: Mapping[str, Any] | bytes = b"",
    *,
    headers: Mapping[str, str] | None = None,
    source: str = "127.0.0.1",
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send one request, and leave the reading to the caller. A header with an empty value is left out."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {
        "host": f"127.0.0.1:{port}",
        "content-type": "application/json",
        "content-length": str(len(data)),
        "connection": "close",
        **(headers or {}),
    }
    sent = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24, local_addr=(source, 0))
    writer.write(f"{method} {path} HTTP/1.1\r\n{sent}\r\n".encode() + data)
    return reader, writer


def parse(raw: bytes) -> Answer:
    """The last HTTP answer in these bytes; 1xx answers before it are left out."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(status_line.split(" ")[1])
    if status < 200:
        return parse(rest)
    body = _dechunk(rest) if headers.get("transfer-encoding") == "chunked" else rest
    return Answer(raw=raw, status=status, headers=headers, body=body)


def _dechunk(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        body += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return body


async def events_of(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """The `data:` values of a stream as they arrive."""
    while line := await reader.readline():
        if line.startswith(b"data: "):
            yield line[6:].decode().strip()


def _url(conninfo: str) -> str:
    parts = conninfos.conninfo_to_dict(conninfo)
    name = parts.pop("dbname")
    query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in parts.items())
    return f"postgresql:///{name}?{query}"
