"""A file of the largest size goes up and comes down through gateway and control process; neither of them holds it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.control.uploads import picture
from tests.e2e.stack import Stack, _url, eventually
from tests.transport.loopback import connected, read_answer

MIB = 1 << 20
FILE_BYTES = 150 * MIB
MEMORY_BYTES_MAX = 32 * MIB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is Linux' to tell")


@asynccontextmanager
async def controlled(database: str, directory: Path) -> AsyncIterator[tuple[Stack, int]]:
    """A gateway before a control process; the second one's process id."""
    socket_path, config = directory / "control.sock", directory / "waypost.toml"
    config.write_text(f'[server]\ncontrol_socket = "{socket_path}"\n')
    async with Stack(database, directory, environment={"WAYPOST_CONFIG": str(config)}) as stack:
        control = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "waypost", "control", "--socket", str(socket_path)),
            *("--data-dir", str(stack.data_dir), "--database-url", _url(database)),
            env={**os.environ},
            stderr=asyncio.subprocess.DEVNULL,
        )

        async def is_there() -> bool:
            return (await stack.request("GET", "/v1/files")).status == 200

        try:
            await eventually(is_there)
            yield stack, control.pid
        finally:
            control.kill()
            await control.wait()


def peak_bytes(pid: int) -> int:
    """The most memory that a process has used so far."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


async def put(port: int, url: str, parts: list[bytes]) -> bytes:
    parts_url = urlsplit(url)
    async with connected(port) as (reader, writer):
        size = sum(map(len, parts))
        writer.write(
            f"PUT {parts_url.path}?{parts_url.query} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        for part in parts:
            writer.write(part)
            await writer.drain()
        answer = await read_answer(reader)
        assert answer.status == 200, answer.body
        return answer.body


async def digest_of(stack: Stack, path: str) -> tuple[int, str]:
    """Length and digest of what comes, as it comes."""
    reader, writer = await stack.connect("GET", path)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200")
    digest, size = hashlib.sha256(), 0
    is_chunked = b"transfer-encoding: chunked" in head
    while length := int(await reader.readline(), 16) if is_chunked else -1:
        data = await (reader.readexactly(length + 2) if is_chunked else reader.read(MIB))
        data = data[:-2] if is_chunked else data
        if not data:
            break
        digest.update(data)
        size += len(data)
    writer.close()
    return size, digest.hexdigest()


async def test_the_largest_file_goes_up_and_comes_down_and_is_never_held(database: str, tmp_path: Path) -> None:
    async with controlled(database, tmp_path) as (stack, control_pid):
        small = (await stack.request("POST", "/v1/files/upload", {"purpose": "INPUT"})).json
        await put(stack.port, small["upload_url"], [picture(MIB)])  # whatever is loaded for the first file is there
        assert (await digest_of(stack, f"/v1/files/{small['file_id']}/download"))[0] == MIB
        before = {pid: peak_bytes(pid) for pid in (stack.pid, control_pid)}

        block = picture(MIB, filler=b"\x5a")
        parts = [block] * (FILE_BYTES // MIB)
        expected = hashlib.sha256()
        for part in parts:
            expected.update(part)
        made = (await stack.request("POST", "/v1/files/upload", {"purpose": "INPUT"})).json
        await put(stack.port, made["upload_url"], parts)
        assert await digest_of(stack, f"/v1/files/{made['file_id']}/download") == (FILE_BYTES, expected.hexdigest())

        grown = {pid: peak_bytes(pid) - bytes_before for pid, bytes_before in before.items()}
        assert max(grown.values()) <= MEMORY_BYTES_MAX, grown
        print(f"\npeaks grew by {grown}")


async def test_a_file_above_the_most_is_refused_before_it_is_sent(database: str, tmp_path: Path) -> None:
    async with controlled(database, tmp_path) as (stack, _):
        made = (await stack.request("POST", "/v1/files/upload", {"purpose": "INPUT"})).json
        url = urlsplit(made["upload_url"])
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: a\r\nContent-Length: {FILE_BYTES + 1}\r\n"
        async with connected(stack.port) as (reader, writer):
            writer.write(head.encode() + b"Expect: 100-continue\r\n\r\n")
            answer = await read_answer(reader)
            assert (answer.status, answer.headers["connection"]) == (413, "close")
