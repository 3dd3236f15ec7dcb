"""A client that sends bytes and shows every byte that comes back; and what a stream says, whoever the provider is."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, cast

import msgspec

from waypost.simulator import Simulator

PREFIXES = {"alpha": "/v1", "beta": "/beta/v1", "gamma": "/gamma/v1"}


class Heard(msgspec.Struct):
    """Everything received until the connection ended."""

    raw: bytes
    was_reset: bool

    @property
    def head(self) -> str:
        return self.raw.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def status(self) -> int:
        return int(self.head.split(" ")[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def framed_body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def body(self) -> bytes:
        """Without chunked framing; raises ValueError where the framing is broken."""
        if self.headers.get("transfer-encoding") != "chunked":
            return self.framed_body
        return unchunked(self.framed_body)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[str]:
        return events(self.body)

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(event) for event in self.events if event != "[DONE]"]


class Caller(asyncio.Protocol):
    """One connection. It keeps each read of the socket apart, and closes only when told to."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.is_ended = False  # FIN or RST came
        self.was_reset = False
        self._changed = asyncio.Event()
        self._lost = asyncio.Event()
        self.transport: asyncio.Transport

    @property
    def received(self) -> bytes:
        return b"".join(self.reads)

    def send(
        self, body: bytes, *, style: str = "alpha", path: str = "", method: str = "POST", headers: str = ""
    ) -> None:
        path = path or PREFIXES[style] + "/chat/completions"
        head = f"{method} {path} HTTP/1.1\r\nHost: sim.example\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.transport.write(head.encode() + body)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Reads on until the condition holds; it must hold before the end."""
        while not condition():
            assert not self.is_ended, "the simulator ended the connection"
            self._changed.clear()
            await self._changed.wait()

    async def rest(self) -> Heard:
        """Reads until the simulator ends the connection, and closes it."""
        await self.until(lambda: self.is_ended)
        await self.close()
        return Heard(self.received, self.was_reset)

    async def close(self) -> None:
        self.transport.close()
        await self._lost.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.reads.append(data)
        self._changed.set()

    def eof_received(self) -> bool:
        self.is_ended = True
        self._changed.set()
        return True  # stays open on our side

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_ended = True
        self.was_reset = isinstance(exc, ConnectionResetError)
        self._changed.set()
        self._lost.set()


async def connect(sim: Simulator) -> Caller:
    return await connect_to(sim.host, sim.port)


async def connect_to(host: str, port: int) -> Caller:
    return (await asyncio.get_running_loop().create_connection(Caller, host, port))[1]


AUTHORIZED = "Authorization: Bearer sk-test\r\n"
ONCE = AUTHORIZED + "Connection: close\r\n"


async def ask(sim: Simulator, text: str = "hi", *, style: str = "alpha", stream: bool = False, **fields: Any) -> Heard:
    """One chat completion on a connection of its own; usage is asked for."""
    return await (await asking(sim, text, style=style, stream=stream, **fields)).rest()


async def asking(sim: Simulator, text: str, *, style: str = "alpha", stream: bool = False, **fields: Any) -> Caller:
    """A connection over which a chat completion was asked for."""
    caller = await connect(sim)
    caller.send(request_body(text, stream=stream, **fields), style=style, headers=ONCE)
    return caller


def request_body(text: str = "hi", *, stream: bool = False, **fields: object) -> bytes:
    body: dict[str, object] = {"model": "sim-large", "messages": [{"role": "user", "content": text}]}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body | fields).encode()


async def control(sim: Simulator, method: str, path: str, document: object = None) -> Heard:
    caller = await connect(sim)
    body = b"" if document is None else json.dumps(document).encode()
    caller.send(body, path=path, method=method, headers="Connection: close\r\n")
    return await caller.rest()


def unchunked(framed: bytes) -> bytes:
    body = b""
    while True:
        size_line, found, framed = framed.partition(b"\r\n")
        if not found:
            raise ValueError("the last chunk is missing")
        size = int(size_line, 16)
        if len(framed) < size + 2 or framed[size : size + 2] != b"\r\n":
            raise ValueError("a chunk is cut off")
        if size == 0:
            return body
        body += framed[:size]
        framed = framed[size + 2 :]


def events(body: bytes) -> list[str]:
    """The data of each server-sent event, by the rules of the HTML standard."""
    found, data = [], []
    for line in re.split(r"\r\n|\n|\r", body.decode().removeprefix("\ufeff")):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            found.append("\n".join(data))
            data = []
    return found


def said(heard: Heard) -> dict[str, Any]:
    """What a stream or a body says, without anything that only its provider has: deltas by choice, ends, usage."""
    streamed = "text/event-stream" in heard.headers["content-type"]
    documents = heard.chunks if streamed else [heard.json]
    choices: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    for document in documents:
        usage = document.get("usage") or usage
        for choice in document["choices"] or []:
            words = choice.get("delta") or choice.get("message") or {}
            known = choices.setdefault(
                choice["index"],
                {"text": [], "reasoning": [], "refusal": [], "calls": {}, "finish": None, "logprobs": []},
            )
            known["text"] += filter(None, [words.get("content")])
            known["refusal"] += filter(None, [words.get("refusal")])
            known["reasoning"] += filter(None, [words.get("reasoning") or words.get("reasoning_content")])
            known["finish"] = choice.get("finish_reason") or known["finish"]
            known["logprobs"] += (choice.get("logprobs") or {}).get("content") or []
            for at, call in enumerate(words.get("tool_calls") or []):
                called = known["calls"].setdefault(call.get("index", at), {"name": "", "arguments": []})
                called["name"] += call["function"].get("name") or ""
                called["arguments"] += filter(None, [call["function"].get("arguments")])
    details = usage.get("prompt_tokens_details") or {}
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    tokens = (usage.get("prompt_tokens"), details.get("cached_tokens", 0), usage.get("completion_tokens"), reasoning)
    return {"choices": choices, "tokens": tokens}
