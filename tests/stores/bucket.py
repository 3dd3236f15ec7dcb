"""A real S3 server on loopback, with one bucket whose objects are files in a folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from waypost.stores.s3 import S3Settings

NAME = "kept"
_SERVE = """
import pathlib, sys
from http.server import ThreadingHTTPServer
from localbucket import S3Handler
S3Handler.data_root = pathlib.Path(sys.argv[1])
server = ThreadingHTTPServer(("127.0.0.1", 0), S3Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


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
    # Its command cannot tell which port it took when it may take any.
    command = (sys.executable, "-c", _SERVE, str(directory))
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline())
        endpoint = f"http://127.0.0.1:{port}"
        settings = S3Settings(
            bucket=NAME, endpoint=endpoint, region="auto", access_key_id="id", secret_access_key="secret"
        )
        yield Bucket(directory, settings)
    finally:
        server.terminate()
        server.wait(10)
        server.stdout.close()
