"""Files by HTTP, as ModelRoute's contract has them, and what a hostile caller makes of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.control.plane import Plane
from tests.control.uploads import FROM, announce, kept, path_of, picture, put_slowly, upload
from waypost.kit import ids
from waypost.storage.file_sweep import audit_of, set_limits
from waypost.tenancy.api_key import Scope

UNKNOWN = "file_00000000-0000-7000-8000-000000000000"


async def test_a_file_is_announced_sent_confirmed_and_fetched(database: str, tmp_path: Path) -> None:
    content = picture(200_000)
    async with Plane(database, tmp_path) as plane:
        made = await announce(plane, region="EU", ttl_days=7)
        assert re.fullmatch(r"file_[0-9a-f-]{36}", made["file_id"])
        assert made["expires_at"].endswith("Z")
        waiting = await plane.ask("GET", f"/v1/files/{made['file_id']}")
        assert (waiting.json["status"], waiting.json["size_bytes"]) == ("PENDING", None)
        early = await plane.ask("POST", "/v1/files/confirm", {"file_id": made["file_id"]})
        assert (early.status, early.json["error"]["code"]) == (400, "FILE_NOT_FOUND")

        sent = await plane.ask("PUT", path_of(made["upload_url"]), content, key="", headers=FROM)

        assert sent.status == 200
        confirmed = await plane.ask("POST", "/v1/files/confirm", {"file_id": made["file_id"]})
        assert confirmed.json == sent.json == (await plane.ask("GET", f"/v1/files/{made['file_id']}")).json
        file = confirmed.json
        lived = datetime.fromisoformat(file["expires_at"]) - datetime.now(UTC)
        assert 6.9 < lived.total_seconds() / 86_400 < 7.1
        assert {name: file[name] for name in ("id", "file_id", "purpose", "status", "region", "content_type")} == {
            "id": made["file_id"],
            "file_id": made["file_id"],
            "purpose": "INPUT",
            "status": "READY",
            "region": "EU",
            "content_type": "image/png",
        }
        assert (file["size_bytes"], file["width"], file["height"]) == (len(content), 640, 480)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()

        fetched = await plane.ask("GET", f"/v1/files/{made['file_id']}/download")
        assert fetched.body == content
        presigned = await plane.ask("GET", f"/v1/files/{made['file_id']}/url")
        assert (presigned.json["content_type"], presigned.json["size_bytes"]) == ("image/png", len(content))
        assert (await plane.ask("GET", path_of(presigned.json["url"]), key="")).body == content
        for way in ({"headers": {"accept": "application/json"}}, {"target": "?presigned=true"}):
            target = f"/v1/files/{made['file_id']}/download{way.get('target', '')}"
            assert "url" in (await plane.ask("GET", target, headers=way.get("headers"))).json  # type: ignore[arg-type]


async def test_the_older_flow_needs_neither_purpose_nor_confirmation(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        body = {"filename": "holiday.jpg", "content_type": "image/jpeg", "size_bytes": 200}
        made = (await plane.ask("POST", "/v1/files/upload", body)).json
        sent = await plane.ask("PUT", path_of(made["upload_url"]), picture(), headers={"content-type": "image/jpeg"})

        file = (await plane.ask("GET", f"/v1/files/{made['file_id']}")).json
        assert (sent.status, file["status"], file["content_type"]) == (200, "READY", "image/png")
        everything = await plane.rows("SELECT file::text FROM file")
        assert "holiday" not in str(everything)


async def test_nothing_of_a_file_is_readable_where_it_is_kept(database: str, tmp_path: Path) -> None:
    canary = os.urandom(16).hex().encode()
    async with Plane(database, tmp_path) as plane:
        await upload(plane, picture(300_000, filler=canary)[:300_000])

        objects = kept(plane)
        assert len(objects) == 1
        assert canary not in objects[0].read_bytes()
        assert b"PNG" not in objects[0].read_bytes()[:64]


async def test_answers_with_bytes_are_safe_to_open(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        file = await upload(plane, picture(filler=b"<script>alert(1)</script>")[:200])
        url = (await plane.ask("GET", f"/v1/files/{file['id']}/url")).json["url"]

        for answer in (
            await plane.ask("GET", f"/v1/files/{file['id']}/download"),
            await plane.ask("GET", path_of(url), key=""),
        ):
            headers = answer.headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-disposition"] == f'attachment; filename="{file["id"]}.png"'
            assert headers["content-security-policy"] == "default-src 'none'; sandbox"
            assert "no-store" in headers["cache-control"]
            assert (headers["content-type"], headers["content-length"]) == ("image/png", "200")


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=65536-65536", 206, 65_536, 65_537),
        ("bytes=70000-", 206, 70_000, 200_000),
        ("bytes=-5", 206, 199_995, 200_000),
        ("bytes=-999999", 206, 0, 200_000),
        ("bytes=100-999999", 206, 100, 200_000),
        ("bytes=0-1,5-6", 200, 0, 200_000),
        ("bytes=9-0", 200, 0, 200_000),
        ("bytes=-", 200, 0, 200_000),
        ("lines=0-9", 200, 0, 200_000),
        ("bytes=200000-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
async def test_one_range_of_a_file_is_served(
    database: str, tmp_path: Path, asked: str, status: int, start: int, end: int
) -> None:
    content = picture(200_000, filler=b"abcdefg")[:200_000]
    async with Plane(database, tmp_path) as plane:
        file = await upload(plane, content)
        answer = await plane.ask("GET", f"/v1/files/{file['id']}/download", headers={"range": asked})

        assert answer.status == status
        if status == 416:
            assert answer.headers["content-range"] == "bytes */200000"
            assert answer.json["error"]["code"] == "RANGE_NOT_SATISFIABLE"
            return
        assert answer.body == content[start:end]
        assert answer.headers["content-length"] == str(end - start)
        if status == 206:
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/200000"
            other = {"range": asked, "if-range": '"another"'}
            whole = await plane.ask("GET", f"/v1/files/{file['id']}/download", headers=other)
            assert (whole.status, len(whole.body)) == (200, 200_000)


async def test_files_are_listed_in_pages_and_by_what_they_are(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        made = [await upload(plane, picture(), region=region) for region in ("US", "EU", "US")]
        pending = await announce(plane, purpose="UPLOAD")

        first = (await plane.ask("GET", "/v1/files?limit=3")).json
        second = (await plane.ask("GET", f"/v1/files?limit=3&cursor={first['next_cursor']}")).json
        listed = [row["id"] for row in (*first["data"], *second["data"])]
        assert listed == [pending["file_id"], *(each["id"] for each in reversed(made))]
        assert second["next_cursor"] is None

        async def ids_of(query: str) -> list[str]:
            return [row["id"] for row in (await plane.ask("GET", f"/v1/files?{query}")).json["data"]]

        assert await ids_of("region=EU") == [made[1]["id"]]
        assert await ids_of("status=PENDING") == await ids_of("purpose=UPLOAD") == [pending["file_id"]]
        assert await ids_of("execution_id=exec_00000000-0000-7000-8000-000000000000") == []
        for query in ("status=HELD", "region=MOON", "purpose=x", "execution_id=1", "limit=0", "cursor=exec_1"):
            assert (await plane.ask("GET", f"/v1/files?{query}")).status == 400, query


async def test_a_deleted_file_is_gone_at_once_and_its_object_soon(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        file = await upload(plane, picture())
        url = (await plane.ask("GET", f"/v1/files/{file['id']}/url")).json["url"]

        assert (await plane.ask("DELETE", f"/v1/files/{file['id']}", headers=FROM)).status == 204

        assert (await plane.ask("DELETE", f"/v1/files/{file['id']}")).status == 404
        assert (await plane.ask("GET", f"/v1/files/{file['id']}/download")).status == 404
        assert (await plane.ask("GET", path_of(url), key="")).status == 404
        assert await plane.rows("SELECT task_name FROM procrastinate_jobs") == [("erase_objects",)]
        await plane.files.erase_due()
        assert kept(plane) == []
        assert await plane.rows("SELECT bytes FROM file_storage") == [(0,)]


async def test_who_uploaded_and_deleted_is_remembered_with_when_and_where_from(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        weak = await plane.make_key(plane.org_id, Scope.EXECUTION)
        file = await upload(plane, picture(), key=weak.text)
        await plane.ask("DELETE", f"/v1/files/{file['id']}", headers={"x-forwarded-for": "2001:db8::1"})

        trail = await audit_of(plane.pool, plane.org_id, limit=10)
        assert [(each.action, each.api_key_id, each.source_ip) for each in trail] == [
            ("DELETE", plane.key.id, "2001:db8::1"),
            ("UPLOAD", weak.id, "203.0.113.7"),
        ]
        assert {ids.text("file", each.file_id) for each in trail} == {file["id"]}


async def test_another_organisations_file_is_as_unknown_as_one_that_never_was(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        other = await plane.make_key(await plane.operator.create_org("other", is_unlimited=False))
        foreign = (await upload(plane, picture(), key=other.text))["id"]
        pending = (await announce(plane, key=other.text))["file_id"]
        same = {"x-request-id": "req_1"}

        for method, tail in (("GET", ""), ("GET", "/download"), ("GET", "/url"), ("DELETE", "")):
            asked = [f"/v1/files/{each}{tail}" for each in (foreign, pending, UNKNOWN, "file_x", "exec_1")]
            answers = [await plane.ask(method, target, headers=same) for target in asked]
            assert {(each.status, each.body) for each in answers} == {(404, answers[0].body)}
        named: list[Any] = [
            await plane.ask("POST", "/v1/files/confirm", {"file_id": each}, headers=same)
            for each in (foreign, pending, UNKNOWN, "file_x")
        ]
        assert {(each.status, each.body) for each in named} == {(400, named[0].body)}
        assert named[0].json["error"]["code"] == "FILE_NOT_FOUND"
        assert (await plane.ask("GET", "/v1/files")).json["data"] == []
        assert (await plane.ask("GET", f"/v1/files/{foreign}", key=other.text)).status == 200


@pytest.mark.parametrize(
    ("body", "field", "code", "told"),
    [
        ({}, "purpose", "REQUIRED", "INPUT or UPLOAD"),
        ({"purpose": "OUTPUT"}, "purpose", "INVALID_VALUE", "'purpose' is one of INPUT, UPLOAD."),
        ({"purpose": "INPUT", "region": "MOON"}, "region", "INVALID_VALUE", "'region' is one of APAC, EU, US."),
        ({"purpose": "INPUT", "ttl_days": 0}, "ttl_days", "OUT_OF_RANGE", ">= 1"),
        ({"purpose": "INPUT", "ttl_days": 366}, "ttl_days", "OUT_OF_RANGE", "<= 365"),
        ({"purpose": "INPUT", "ttl_days": "7"}, "ttl_days", "INVALID_TYPE", "`int"),
        ({"filename": "a" * 2000}, "filename", "OUT_OF_RANGE", "1024"),
        ({"size_bytes": 0}, "size_bytes", "OUT_OF_RANGE", ">= 1"),
        ({"purpose": "INPUT", "surprise": 1}, "surprise", "UNKNOWN_FIELD", "nothing here"),
    ],
)
async def test_what_is_wrong_is_named_and_how(
    database: str, tmp_path: Path, body: dict[str, object], field: str, code: str, told: str
) -> None:
    async with Plane(database, tmp_path) as plane:
        answer = await plane.ask("POST", "/v1/files/upload", body)

        (detail,) = answer.json["error"]["details"]
        assert (answer.status, detail["field"], detail["code"]) == (400, field, code)
        assert told in detail["message"]
        assert "MOON" not in detail["message"]
        assert await plane.rows("SELECT FROM file") == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"plain text",
        b"<!DOCTYPE html><script>alert(1)</script>",
        b"<svg onload=alert(1)>",
        b"PK\x03\x04" + bytes(100),
        b"\x7fELF" + bytes(100),
        b"GIF89a\0\0\0\0=1;alert(1)" + bytes(100),
        b"\xff\xd8\xff<html>" + bytes(1_000_000),
    ],
)
async def test_bytes_of_no_known_type_are_refused_and_the_upload_goes_on(
    database: str, tmp_path: Path, content: bytes
) -> None:
    async with Plane(database, tmp_path) as plane:
        made = await announce(plane)
        declared = {"content-type": "image/png", **FROM}
        answer = await plane.ask("PUT", path_of(made["upload_url"]), content, key="", headers=declared)

        assert (answer.status, answer.json["error"]["code"]) == (400, "FILE_FORMAT_UNSUPPORTED")
        assert kept(plane) == []
        assert (await plane.ask("PUT", path_of(made["upload_url"]), picture(), key="")).status == 200


async def test_too_many_bytes_are_refused_told_or_not_and_nothing_is_kept(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path, config="[files]\nbytes_max = 1_000_000\n") as plane:
        made = await announce(plane)
        url = made["upload_url"]
        told = await plane.ask("PUT", path_of(url), b"", key="", headers={"content-length": "1000001"})
        untold = await put_slowly(plane, url, [picture(600_000), bytes(400_001)])
        announced = await plane.ask("POST", "/v1/files/upload", {"purpose": "INPUT", "size_bytes": 1_000_001})

        for answer in (told, untold, announced):
            assert (answer.status, answer.json["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
        assert kept(plane) == []
        assert (await put_slowly(plane, url, [picture(600_000), bytes(400_000)])).status == 200


async def test_an_upload_that_breaks_off_leaves_nothing_and_may_begin_again(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        url = (await announce(plane))["upload_url"]

        broken = await put_slowly(plane, url, [picture(900_000), bytes(900_000)], hang_up=True)

        assert broken.status == 408
        assert kept(plane) == []
        assert (await put_slowly(plane, url, [picture(900_000)])).status == 200


async def test_a_url_takes_one_upload_and_no_second_one(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        url = path_of((await announce(plane))["upload_url"])
        first, second = picture(200, filler=b"1"), picture(200, filler=b"2")
        assert (await plane.ask("PUT", url, first, key="")).status == 200

        again = await plane.ask("PUT", url, second, key="")

        assert (again.status, again.json["error"]["code"]) == (409, "CONFLICT")
        file_id = url.split("/")[3]
        assert (await plane.ask("GET", f"/v1/files/{file_id}/download")).body == first


async def test_of_several_uploads_at_once_one_is_kept(database: str, tmp_path: Path) -> None:
    contents = [picture(900_000, filler=bytes((at,))) for at in range(5)]
    async with Plane(database, tmp_path) as plane:
        url = (await announce(plane))["upload_url"]

        answers = await asyncio.gather(*(put_slowly(plane, url, [each[:300_000], each[300_000:]]) for each in contents))

        assert sorted(each.status for each in answers) == [200, 409, 409, 409, 409]
        won = next(each for each in answers if each.status == 200).json
        fetched = await plane.ask("GET", f"/v1/files/{won['id']}/download")
        assert hashlib.sha256(fetched.body).hexdigest() == won["sha256"]
        assert fetched.body in contents
        assert len(kept(plane)) == 1
        assert await plane.rows("SELECT bytes FROM file_storage") == [(900_000,)]
        assert await plane.rows("SELECT FROM object_erasure") == []


async def test_only_a_url_that_we_signed_for_that_use_opens_anything(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        file = await upload(plane, picture())
        url = path_of((await plane.ask("GET", f"/v1/files/{file['id']}/url")).json["url"])
        waiting = path_of((await announce(plane))["upload_url"])
        signature = url.rpartition("=")[2]
        later = re.sub(r"expires=(\d+)", lambda found: f"expires={int(found[1]) + 1}", url)
        flipped = url[:-1] + ("0" if url[-1] != "0" else "1")
        forged = [
            flipped,
            later,
            url.partition("?")[0],
            url.replace(signature, ""),
            url.replace(signature, "é" * 32),
            re.sub(r"expires=\d+", "expires=-1", url),
            re.sub(r"expires=\d+", "expires=" + "9" * 40, url),
            url.replace(file["id"], UNKNOWN),
            f"/v1/files/{UNKNOWN}/content?expires=99999999999&signature=" + "0" * 32,
            waiting,
            url.replace("/v1/files/", "/v1/inputs/").replace("/content", ".png"),
        ]
        for target in forged:
            answer = await plane.ask("GET", target)
            assert (answer.status, answer.json["error"]["code"]) == (403, "PERMISSION_DENIED"), target
        for target in (url, flipped, waiting[:-1] + ("0" if waiting[-1] != "0" else "1")):
            assert (await plane.ask("PUT", target, picture())).status == 403
        assert (await plane.ask("PUT", waiting, picture(), headers={"content-encoding": "gzip"})).status == 415


async def test_a_url_ends_when_its_time_is_over(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane:
        file = await upload(plane, picture())
        url = path_of((await plane.ask("GET", f"/v1/files/{file['id']}/url")).json["url"])
        waiting = path_of((await announce(plane))["upload_url"])

        plane.clock.step_s(3590)
        assert (await plane.ask("GET", url, key="")).status == 200
        plane.clock.step_s(20)

        assert (await plane.ask("GET", url, key="")).status == 403
        assert (await plane.ask("PUT", waiting, picture(), key="")).status == 403


async def test_an_upload_that_never_comes_vanishes_after_an_hour_and_a_file_when_its_days_are_over(
    database: str, tmp_path: Path
) -> None:
    async with Plane(database, tmp_path) as plane:
        file = await upload(plane, picture(), ttl_days=1)
        await announce(plane)
        plane.clock.step_s(3601)
        assert [row["id"] for row in (await plane.ask("GET", "/v1/files")).json["data"]] == [file["id"]]
        await plane.files.sweep()
        assert await plane.rows("SELECT count(*) FROM file") == [(1,)]
        assert len(kept(plane)) == 1

        plane.clock.step_s(86_400)
        assert (await plane.ask("GET", f"/v1/files/{file['id']}/download")).status == 404
        await plane.files.sweep()

        assert await plane.rows("SELECT FROM file") == []
        assert kept(plane) == []
        assert [each.action for each in await audit_of(plane.pool, plane.org_id, limit=9)] == ["EXPIRE", "UPLOAD"]
        plane.clock.step_s(90 * 86_400)
        await plane.files.sweep()
        assert await audit_of(plane.pool, plane.org_id, limit=9) == []


async def test_an_organisations_files_take_no_more_room_than_they_may(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path, config="[files]\norganisation_bytes = 1000\n") as plane:
        first = await upload(plane, picture(600))
        made = await announce(plane)
        refused = await plane.ask("PUT", path_of(made["upload_url"]), picture(401), key="")
        assert (refused.status, refused.json["error"]["code"]) == (409, "CONFLICT")
        assert len(kept(plane)) == 1
        assert (await plane.ask("PUT", path_of(made["upload_url"]), picture(400), key="")).status == 200

        full = await plane.ask("POST", "/v1/files/upload", {"purpose": "INPUT"})
        assert (full.status, full.json["error"]["code"]) == (409, "CONFLICT")
        await plane.ask("DELETE", f"/v1/files/{first['id']}")
        await upload(plane, picture(600))
        await set_limits(plane.pool, plane.org_id, ttl_days=3, bytes_max=2000)
        file = await upload(plane, picture(1000))
        assert datetime.fromisoformat(file["expires_at"]).timestamp() < plane.clock.unix_ns() / 1e9 + 4 * 86_400


async def test_an_organisation_awaits_so_many_uploads_and_no_more(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost.storage.files.PENDING_MAX", 2)
    async with Plane(database, tmp_path) as plane:
        for _ in range(2):
            await announce(plane)
        refused = await plane.ask("POST", "/v1/files/upload", {"purpose": "INPUT"})

        assert (refused.status, refused.json["error"]["code"]) == (429, "RATE_LIMITED")
        assert int(refused.headers["retry-after"]) > 0


async def test_urls_stand_at_the_public_url_and_else_where_the_caller_came_to(database: str, tmp_path: Path) -> None:
    asked = {"host": "gate.example.net:8080", "x-forwarded-proto": "https", **FROM}
    async with Plane(database, tmp_path) as plane:
        made = await plane.ask("POST", "/v1/files/upload", {"purpose": "INPUT"}, headers=asked)
        assert made.json["upload_url"].startswith("https://gate.example.net:8080/v1/files/file_")
        odd = await plane.ask("POST", "/v1/files/upload", {"purpose": "INPUT"}, headers={"host": "a b/<x>"})
        assert odd.json["upload_url"].startswith("/v1/files/file_")
    async with Plane(database, tmp_path / "two", config='[server]\npublic_url = "https://ai.example.org"\n') as plane:
        made = await plane.ask("POST", "/v1/files/upload", {"purpose": "INPUT"}, headers=asked)
        assert made.json["upload_url"].startswith("https://ai.example.org/v1/files/file_")


async def test_an_upload_that_stands_still_is_given_up_and_holds_no_place(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost.control.files._IDLE_S", 0.05)
    monkeypatch.setattr("waypost.control.file_store.UPLOADS_OF_ONE", 1)
    async with Plane(database, tmp_path) as plane:
        url = (await announce(plane))["upload_url"]
        is_begun = asyncio.Event()
        standing = asyncio.ensure_future(
            put_slowly(plane, url, [picture(900_000), b"x"], between=[is_begun.set, lambda: asyncio.sleep(30)])
        )
        await is_begun.wait()
        busy = await put_slowly(plane, url, [picture()])
        stopped = await standing

        assert (busy.status, busy.json["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert (stopped.status, stopped.json["error"]["code"]) == (408, "REQUEST_TIMEOUT")
        assert kept(plane) == []
        assert (await put_slowly(plane, url, [picture()])).status == 200
