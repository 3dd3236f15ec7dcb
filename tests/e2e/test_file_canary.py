"""A whole deployment takes a file in, gives it out and deletes it: its name and its bytes are nowhere else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from tests.control.uploads import path_of, picture
from tests.e2e.canary import Markers, Scanner, Sink, database_dump, database_files, files, wal_position
from tests.e2e.stack import eventually
from tests.e2e.supervised import Supervised


def objects_of(data_dir: Path) -> list[Path]:
    return [path for path in (data_dir / "files").rglob("*") if path.is_file()]


def everywhere(stack: Supervised, since_wal: str) -> Sink:
    return {
        **files(stack.data_dir),
        **database_files(stack.database, since_wal),
        **database_dump(stack.database),
        "log": stack.log_text,
    }


@pytest.mark.slow
async def test_of_a_file_nothing_is_found_where_it_is_kept_nor_anywhere_else(database: str, tmp_path: Path) -> None:
    markers = Markers(Random(7))
    body, name = markers["body"].encode(), markers["name"]
    content = picture(200_000, filler=body)[:200_000]
    since_wal = wal_position(database)
    async with Supervised(database, tmp_path, workers=1) as stack:
        announced = {"filename": f"{name}.png", "content_type": f"image/{markers['type']}", "size_bytes": len(content)}
        made = (await stack.request("POST", "/v1/files/upload", announced)).json
        sent = await stack.request("PUT", path_of(made["upload_url"]), content, headers={"content-type": "text/plain"})
        assert (sent.status, sent.json["size_bytes"]) == (200, len(content))
        refused = (await stack.request("POST", "/v1/files/upload", announced)).json
        no_type = await stack.request("PUT", path_of(refused["upload_url"]), body * 5000)
        assert (no_type.status, no_type.json["error"]["code"]) == (400, "FILE_FORMAT_UNSUPPORTED")
        download = f"/v1/files/{made['file_id']}/download"
        fetched = await stack.request("GET", download)
        assert fetched.body == content
        assert fetched.headers["x-content-type-options"] == "nosniff"
        assert fetched.headers["content-length"] == str(len(content))
        assert len(objects_of(stack.data_dir)) == 1

        scanner = Scanner([markers.tag])
        sinks = await asyncio.to_thread(everywhere, stack, since_wal)
        assert [hit for sink, data in sinks.items() for hit in scanner.hits(sink, data)] == []

        assert (await stack.request("DELETE", f"/v1/files/{made['file_id']}")).status == 204

        async def is_erased() -> bool:
            return objects_of(stack.data_dir) == []

        await eventually(is_erased)
        assert (await stack.request("GET", download)).status == 404
    assert [event for event in stack.log if event["level"] == "error"] == []
