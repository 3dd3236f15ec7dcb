"""A real S3 server on loopback, with one bucket whose objects are files in a folder."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from waypost.stores.s3 import S3Settings

NAME = "kept"


class Bucket(msgspec.Struct, frozen=True):
    directory: Path
    settings: S3Settings

    def objects(self) -> list[Path]:
        return sorted(path for path in (self.directory / NAME).rglob("*") if path.is_file())

    def unfinished(self) -> list[Path]:
        return sorted((self.directory / ".localbucket-uploads").glob("*"))


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Bucket]:
    (directory / NAME).mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = (sys.executable, "-m", "localbucket", str(directory), "--port", str(port))
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, server)
        endpoint = f"http://127.0.0.1:{port}"
        settings = S3Settings(
            bucket=NAME, endpoint=endpoint, region="auto", access_key_id="id", secret_access_key="secret"
        )
        yield Bucket(directory, settings)
    finally:
        server.terminate()
        server.wait(10)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert server.poll() is None, "the S3 server ended"
        time.sleep(0.05)
    raise AssertionError("the S3 server does not listen")
