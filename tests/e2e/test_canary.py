"""Nothing that was said, and no secret, is found on any disk or page afterwards.

Unique markers go through every part of a request and of an answer, through success, error, retry, refusal, disconnect
and crash. Then every sink is searched. What shows that the search would find them: a control marker is planted in each
sink by the sink's own writer, and must be found by the same search.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import psutil  # type: ignore[import-untyped]  # it ships without types
import psycopg
import pytest
from psycopg import conninfo as conninfos

from tests.e2e import canary
from tests.e2e.canary import MARKER_CHARACTERS, Markers, Scanner, Sink, forms
from tests.e2e.stack import UPSTREAM_MODEL, Answer, Stack, document, events_of
from waypost.app.secrets import open_secrets, with_references
from waypost.ledger.record import Outcome
from waypost.policy.document import read_catalogue
from waypost.simulator import Simulator
from waypost.supervisor.internal_http import get
from waypost.tenancy.api_key import assemble

SLOW = "words=400 delay_ms=20"  # far longer than the test waits for it
SINKS = ("database files", "database dump", "journal", "log", "metrics", "temporary files", "data directory")


class Evidence:
    """What was seen of each sink, at any time: hits of the markers, and whether the control was found."""

    def __init__(self, markers: Scanner, control: Scanner) -> None:
        self.leaks: list[str] = []
        self.proven: set[str] = set()
        self._markers = markers
        self._control = control

    def search(self, sink: str, found: Sink) -> None:
        for place, data in found.items():
            self.leaks += self._markers.hits(f"{sink}: {place}", data)
            if sink not in self.proven and self._control.hits(sink, data):
                self.proven.add(sink)


def request(markers: Markers, *directives: str, **fields: Any) -> dict[str, Any]:
    """A request with a marker in every part of it; the model says one more."""
    image = base64.b64encode(markers["image"].encode()).decode()
    text = f"{markers['prompt']}\nsim: say={markers['output']} {' '.join(directives)}"
    call = {"name": markers["tool called"], "arguments": json.dumps({markers["argument name"]: markers["argument"]})}
    return {
        "model": "swift-1",
        "messages": [
            {"role": "system", "content": markers["system prompt"]},
            {"role": "user", "content": "Look it up", "name": markers["participant"]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": markers["call id"], "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": markers["call id"], "content": markers["tool result"]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": text},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
                    {"type": "image_url", "image_url": {"url": f"https://images.example/{markers['image address']}"}},
                ],
            },
        ],
        "user": markers["user"],
        "metadata": {markers["metadata name"]: markers["metadata"]},
        "unknown_field": markers["unknown field"],
        markers["unknown name"]: [{markers["JSON key"]: 1}],
        **fields,
    }


def tools(markers: Markers) -> list[dict[str, Any]]:
    """A tool that the model calls, so that it says its name and writes arguments."""
    properties = {markers["property"]: {"type": "string", "enum": [markers["tool output"]]}}
    parameters = {"type": "object", "properties": properties, "required": [markers["property"]]}
    return [{"type": "function", "function": {"name": markers["tool"], "parameters": parameters}}]


class Traffic:
    """The phases of a run."""

    def __init__(self, stack: Stack, markers: Markers) -> None:
        self.stack = stack
        self.markers = markers
        self.headers = {"x-marker": markers["header"], "user-agent": markers["agent"], "referer": markers["referer"]}

    async def chat(self, body: dict[str, Any] | bytes, **options: Any) -> Answer:
        return await self.stack.chat(body, **{"headers": self.headers, **options})

    async def success(self) -> None:
        said = ("words=12",)
        plain = await self.chat(request(self.markers, *said))
        streamed = await self.chat(request(self.markers, *said, stream=True, stream_options={"include_usage": True}))
        for answer in (plain, streamed):
            assert answer.text.startswith(self.markers["output"])
        for stream in (False, True):
            called = await self.chat(
                request(self.markers, stream=stream, tools=tools(self.markers), tool_choice="required")
            )
            assert self.markers["tool"].encode() in called.body

    async def errors(self) -> None:
        sim = self.stack.sim
        for phase, status in (("after_request", 400), ("after_request", 500), ("mid", 400)):
            for stream in (False, True):
                sim.arm(kind="echo_secret", phase=phase, status=status, count=3)
                answer = await self.chat(request(self.markers, "words=12", stream=stream))
                assert answer.status >= 400 or b'"error"' in answer.body
                sim.disarm()
        assert {record.fault for record in sim.requests} == {"", "echo_secret"}

    async def retry(self) -> None:
        for stream in (False, True):
            # Refused as if the operator's credential were wrong, which is worth a word in the log.
            self.stack.sim.arm(kind="status", status=401)
            assert (await self.chat(request(self.markers, "words=12", stream=stream))).status == 200

    async def refusals(self) -> None:
        whole = request(self.markers)
        text = json.dumps(whole)
        bodies: list[dict[str, Any] | bytes] = [
            text[:-1].encode(),
            text.replace(self.markers["prompt"], self.markers["prompt"] + "\udcff").encode("utf-8", "surrogateescape"),
            {**whole, "model": self.markers["model"]},
            {**whole, "stream": self.markers["wrong type"]},
            {**whole, "messages": self.markers["wrong type"]},
            {**whole, "messages": [{"role": self.markers["role"], "content": 1}]},
            {**whole, "n": 1000},
            {**whole, "max_tokens": 10**9, "max_completion_tokens": self.markers["wrong type"]},
        ]
        for body in bodies:
            assert 400 <= (await self.chat(body)).status < 500
        for key in (self.markers["malformed key"], self.markers["key of nobody"]):
            assert (await self.chat(whole, key=key)).status == 401
        two = {**self.headers, "x-api-key": self.markers["second key"]}
        assert (await self.chat(whole, headers=two)).status == 400
        # What each path does with a query or a method is not the matter here.
        path = f"{self.markers['path']}?q={self.markers['query']}"
        for method, where in (("GET", f"/v1/models/{path}"), ("GET", f"/{path}"), ("PUT", "/v1/chat/completions")):
            assert (await self.stack.request(method, where, whole, headers=self.headers)).status >= 400
        assert (await self.chat(whole, headers={self.markers["header name"] + "\u00e9": "1"})).status == 400

    async def disconnect(self) -> None:
        await self._leave(await self._begin_stream())
        async with asyncio.timeout(20):
            while not await self.stack.rows(f"SELECT FROM execution WHERE outcome = {Outcome.DISCONNECTED}"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # another process writes it

    async def crash(self) -> None:
        """Two requests are under way when the process is killed."""
        plain = asyncio.ensure_future(self.chat(request(self.markers, SLOW)))
        stream = await self._begin_stream()
        await self.stack.sim.until(lambda: sum(not record.closed_s for record in self.stack.sim.requests) == 2)
        await self.stack.kill()
        with pytest.raises((OSError, IndexError, ValueError)):  # no answer
            await plain
        await self._leave(stream)

    async def _begin_stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        body = request(self.markers, SLOW, stream=True)
        reader, writer = await self.stack.connect("POST", "/v1/chat/completions", body, headers=self.headers)
        async for event in events_of(reader):
            if self.markers["output"] in event:
                break
        return reader, writer

    async def _leave(self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        connection[1].close()
        with contextlib.suppress(OSError):
            await connection[1].wait_closed()


async def test_nothing_said_and_no_secret_is_found_anywhere(database: str, tmp_path: Path) -> None:
    dice = Random(os.urandom(8))
    markers, control = Markers(dice), Markers(dice)["control"]
    markers.made["key of nobody"] = assemble(dice.randbytes(32))
    started_at = canary.wal_position(database)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    sim = Simulator()
    environment = {"TMPDIR": str(temporary), "TEST_PROVIDER_KEY": markers["provider key"]}
    async with Stack(database, tmp_path, simulator=sim, environment=environment, credit_usd=50) as stack:
        # Of a key the first twelve and the last four characters may be kept.
        keys = [key[12:-4] for key in (stack.key.text, markers["key of nobody"])]
        evidence = Evidence(Scanner([markers.tag, *keys]), Scanner([control]))
        await stack.adopt(with_control(sim, control))
        plant(stack, control, temporary)
        journal, socket = stack.data_dir / "journal", stack.data_dir / "run" / "gateway.sock"

        traffic = Traffic(stack, markers)
        await traffic.success()
        await traffic.errors()
        await traffic.retry()
        await traffic.refusals()
        await traffic.disconnect()
        assert_sent_upstream(sim, markers)
        evidence.search("journal", canary.files(journal))
        evidence.search("metrics", {"page": (await get(socket, "/metrics", timeout_s=10))[1]})
        evidence.search("temporary files", canary.files(temporary))
        assert_open_files(stack.pid, journal)

        await traffic.crash()
        evidence.search("journal", canary.files(journal))
        await stack.start()
        evidence.search("journal", canary.files(journal))
        await traffic.success()
        await stack.at_rest()
        assert await stack.rows(f"SELECT count(*) FROM execution WHERE outcome = {Outcome.CRASHED}") == [(2,)]
        evidence.search("metrics", {"page": (await get(socket, "/metrics", timeout_s=10))[1]})
        assert await stack.stop() == 0

        evidence.search("temporary files", canary.files(temporary))
        evidence.search("data directory", canary.files(stack.data_dir))
        evidence.search("log", {"stderr": stack.log_text})
        evidence.search("database dump", canary.database_dump(database))
        evidence.search("database files", canary.database_files(database, started_at))

    assert evidence.leaks == []
    assert evidence.proven == set(SINKS), "a search that finds nothing planted proves nothing"


def with_control(sim: Simulator, control: str) -> dict[str, Any]:
    """The catalogue whose first provider is named after the control: so it goes to the database, into OPEN, onto the
    metrics page, and into the log when its credential is refused."""
    whole = document(sim)
    whole["providers"][0]["id"] = control
    whole["models"][0]["deployments"][0]["provider"] = control
    return whole


def plant(stack: Stack, control: str, temporary: Path) -> None:
    """The control in the two places where no name of the catalogue goes."""
    code = f"import tempfile; tempfile.NamedTemporaryFile('w', delete=False).write({control!r})"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(temporary)}, check=True)
    table = with_control(stack.sim, "provider")
    table["providers"][0]["api_keys"] = [f"plain:{control}"]
    with_references(read_catalogue(table), open_secrets(stack.settings.secrets_dir), document_dir=temporary)


def assert_sent_upstream(sim: Simulator, markers: Markers) -> None:
    """The markers did travel: a run in which they did not would prove nothing."""
    whole = next(record for record in sim.requests if record.model == UPSTREAM_MODEL and b"say=" in record.body)
    assert whole.header("authorization") == f"Bearer {markers['provider key']}"
    for name in ("prompt", "system prompt", "argument", "tool result", "image address", "unknown field", "JSON key"):
        assert markers[name].encode() in whole.body, name


def assert_open_files(pid: int, journal: Path) -> None:
    """Nor does the process hold a file that has no name any more."""
    try:
        opened = [Path(file.path) for file in psutil.Process(pid).open_files()]
    except psutil.AccessDenied:  # its memory is private, and so is this to anybody but root
        return
    assert any(journal in path.parents for path in opened)
    assert [path for path in opened if journal not in path.parents] == []
    # Standard output is a nameless file of the test's own.
    assert {link for link in _links(pid) - _links(os.getpid()) if link.endswith("(deleted)")} == set()


def _links(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(link))
    return found


@pytest.mark.parametrize("form", forms("x"))
@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_the_search_finds_a_marker_in_every_form(form: str, before: str) -> None:
    markers = Markers(Random(before + form))
    marker = markers["any"]
    whole = (before + marker + before).encode()
    spoken = {
        "plain": whole,
        "hex": whole.hex().encode(),
        "HEX": whole.hex().upper().encode(),
        "JSON escapes": "".join(f"\\u{byte:04x}" for byte in whole).encode(),
        "UTF-16": whole.decode().encode("utf-16-le" if before else "utf-16-be"),
    }.get(form)
    if form.startswith("URL"):
        spoken = "".join(f"%{byte:02X}" if "upper" in form else f"%{byte:02x}" for byte in whole).encode()
    elif form.startswith("base64"):
        spoken = base64.urlsafe_b64encode(whole) if "url" in form else base64.b64encode(whole)

    assert spoken is not None
    assert Scanner([markers.tag]).hits("sink", b"\0before" + spoken + b"after") != []
    assert len(marker) == MARKER_CHARACTERS
    assert Scanner([Markers(Random("another"))["any"]]).hits("sink", spoken) == []


def test_the_search_finds_what_postgresql_itself_writes_to_its_log(database: str) -> None:
    marker = Markers(Random(os.urandom(8)))["database"]
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(conninfos.make_conninfo(database, dbname=marker))
    found = canary.database_files(database, canary.wal_position(database))

    hits = [hit for place, data in found.items() for hit in Scanner([marker]).hits(place, data)]
    assert any("postgres.log" in hit for hit in hits)


def test_the_search_of_a_dump_finds_what_a_page_holds_compressed(database: str) -> None:
    marker = Markers(Random(os.urandom(8)))["value"]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE planted (value text)")
        connection.execute("INSERT INTO planted VALUES (repeat('x', 9000) || %s || repeat('y', 9000))", [marker])

    assert Scanner([marker]).hits("dump", canary.database_dump(database)["planted"])
