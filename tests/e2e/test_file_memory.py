"""A file of 150 MiB goes through the control process, and an output into the store, in little memory.

`./run test tests/e2e/test_file_memory.py -s -n 0` prints the peaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.plane import Plane
from tests.control.uploads import path_of, picture
from tests.e2e.stack import _url
from tests.stores.bucket import serving
from waypost.supervisor.internal_http import get

SIZE = 150 * 1024 * 1024
MORE_KIB_MAX = 32 * 1024
PIECE = bytes(256 * 1024)
FOLDER = ""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc"),
]


def peak_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.fixture(params=["folder", "S3"])
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "folder":
        yield FOLDER
        return
    monkeypatch.setenv("FILES_ID", "id")
    with serving(tmp_path / "buckets") as bucket:
        yield (
            f'[files]\nstore = "s3"\nbucket = "{bucket.settings.bucket}"\nendpoint = "{bucket.settings.endpoint}"\n'
            'access_key_id = "env:FILES_ID"\nsecret_access_key = "env:FILES_ID"\n'
        )


class Control:
    """A control process of the plane's, spoken to at its socket."""

    def __init__(self, plane: Plane, socket: Path, pid: int) -> None:
        self.plane, self.socket, self.pid = plane, socket, pid

    async def ask(self, method: str, target: str, size: int = 0, *, body: bytes = b"") -> tuple[int, bytes, int]:
        """Status, the answer's first bytes, and how many it had. `size` bytes of a picture are sent, or the body."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        length = size or len(body)
        head = f"{method} {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.plane.key.text}\r\n"
        head += f"x-forwarded-for: 203.0.113.7\r\ncontent-length: {length}\r\n"
        writer.write(f"{head}content-type: application/json\r\nconnection: close\r\n\r\n".encode() + body)
        sent = 0
        while sent < size:
            part = picture(1000) if not sent else PIECE[: size - sent]
            writer.write(part)
            await writer.drain()
            sent += len(part)
        answer_head = await reader.readuntil(b"\r\n\r\n")
        first, count = b"", 0
        while part := await reader.read(256 * 1024):
            first, count = (first + part)[:65_536], count + len(part)
        writer.close()
        return int(answer_head.split()[1]), first, count

    async def json(self, method: str, target: str, value: object) -> Any:
        status, answer, _ = await self.ask(method, target, body=json.dumps(value).encode())
        assert status == 200, answer
        return json.loads(answer)

    async def in_and_out(self, size: int) -> tuple[int, int]:
        """The process's peak after an upload of that size, and after its download."""
        made = await self.json("POST", "/v1/files/upload", {"purpose": "INPUT"})
        status, answer, _ = await self.ask("PUT", path_of(made["upload_url"]), size)
        assert (status, json.loads(answer)["size_bytes"]) == (200, size)
        after_upload = peak_kib(self.pid)
        status, _, count = await self.ask("GET", f"/v1/files/{made['file_id']}/download")
        assert (status, count) == (200, size)
        return after_upload, peak_kib(self.pid)


@contextlib.asynccontextmanager
async def running(database: str, tmp_path: Path, config: str) -> AsyncIterator[Control]:
    async with Plane(database, tmp_path, config=config) as plane:
        socket = tmp_path / "control.sock"
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "waypost", "control", "--socket", str(socket)),
            *("--data-dir", str(plane.settings.data_dir), "--database-url", _url(database)),
            *("--config", str(tmp_path / "waypost.toml")),
        )
        try:
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(OSError):
                        if (await get(socket, "/readyz", timeout_s=5))[0] == 200:
                            break
                    await asyncio.sleep(0.1)
            yield Control(plane, socket, child.pid)
        finally:
            child.terminate()
            await child.wait()


async def test_a_large_file_is_taken_in_and_given_out_in_little_memory(
    database: str, tmp_path: Path, config: str
) -> None:
    async with running(database, tmp_path, config) as control:
        await control.in_and_out(3_000_000)
        before = peak_kib(control.pid)

        after_upload, after_download = await control.in_and_out(SIZE)

        store = "folder" if config == FOLDER else "S3"
        print(f"\n{store}: {before} KiB before, +{after_upload - before} in, +{after_download - before} in and out")
        assert after_download - before <= MORE_KIB_MAX


async def test_a_large_output_is_fetched_in_little_memory(database: str, tmp_path: Path, config: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int((await reader.readuntil(b"\r\n\r\n")).split()[1][1:])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + picture(1000))
        sent = 1000
        while sent < size:
            writer.write(PIECE[: size - sent])
            await writer.drain()
            sent += len(PIECE[: size - sent])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Plane(database, tmp_path, config=config) as plane:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.e2e.fetching", _url(database), str(tmp_path), plane.org_id.hex()),
            *(str(port), "3000000", str(SIZE)),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await child.communicate()
        server.close()
        assert child.returncode == 0
        before, after = (int(line) for line in out.split())

        print(f"\n{'folder' if config == FOLDER else 'S3'}: {before} KiB before, +{after - before} for an output")
        assert after - before <= MORE_KIB_MAX
