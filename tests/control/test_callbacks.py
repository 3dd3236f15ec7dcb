"""Providers' callbacks: an address that we did not make is nothing; what comes to one of ours is recorded, a hint."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.control.plane import Answer, Plane
from tests.providers.test_job_signatures import SECRET
from waypost.control.callbacks import BODY_BYTES_MAX, PER_MINUTE, KeySets
from waypost.kit.ids import Ids, text
from waypost.policy.catalogue import Catalogue
from waypost.policy.document import read_catalogue
from waypost.providers.job_signature import PUBLIC_KEYS_MAX
from waypost.simulator.job_callback import key_set, signed
from waypost.storage.provider_callbacks import HEAR

IDS = Ids()
BODY = b'{"id":"job-1","request_id":"job-1","output":"CANARY"}'
EXECUTION = IDS.new()


def catalogue(monkeypatch: pytest.MonkeyPatch, **job: Any) -> Catalogue:
    monkeypatch.setenv("REPLICATE_SECRET", "whsec_c2ltdWxhdGVkLXdlYmhvb2stc2VjcmV0")
    monkeypatch.setenv("OTHER_SECRET", SECRET)
    kinds = {"rep": "replicate", "fal": "fal", "plain": "http-job"}
    providers: list[dict[str, Any]] = [
        {"id": name, "kind": kind, "base_url": "https://x.example", "api_keys": ["env:KEY"]}
        for name, kind in kinds.items()
    ]
    providers[0]["webhook_secrets"] = ["env:MISSING", "env:OTHER_SECRET", "env:REPLICATE_SECRET"]
    providers[2]["job"] = {"submit_path": "/jobs", "status_path": "/jobs/{id}"} | job
    deployments = [{"provider": name, "upstream_model": "a/b", "cost": {"second": "1"}} for name in kinds]
    model = {"slug": "clip", "modality": "video", "price": {"second": "1"}, "deployments": deployments}
    return read_catalogue({"providers": providers, "models": [model]})


def path(plane: Plane, provider: str, *, attempt: int = 1, execution_id: bytes = EXECUTION, token: str = "") -> str:
    token = token or plane.addresses.token(provider, execution_id, attempt)
    return f"/v1/callbacks/{provider}/{text('exec', execution_id)}/{attempt}/{token}"


async def call(plane: Plane, where: str, body: bytes = BODY, headers: dict[str, str] | None = None) -> Answer:
    return await plane.ask("POST", where, body=body, headers={"authorization": ""} | (headers or {}))


async def jobs(plane: Plane) -> list[dict[str, Any]]:
    rows = await plane.rows("SELECT args FROM procrastinate_jobs WHERE task_name = %s ORDER BY id", HEAR)
    return [row[0] for row in rows]


async def recorded(plane: Plane) -> list[tuple[object, ...]]:
    return await plane.rows(
        "SELECT provider, attempt, size_bytes, signature FROM provider_callback ORDER BY received_at"
    )


def signed_headers(plane: Plane, style: str, body: bytes = BODY, *, is_forged: bool = False) -> dict[str, str]:
    now_s = plane.clock.unix_ns() // 1_000_000_000
    return {name.lower(): value for name, value in signed(style, "event-1", body, now_s, is_forged=is_forged)}


async def test_a_signed_callback_is_recorded_without_what_it_says_and_looked_into(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plane(database, tmp_path, catalogue(monkeypatch)) as plane:
        answer = await call(plane, path(plane, "rep", attempt=2), headers=signed_headers(plane, "replicate"))
        assert answer.status == 204
        assert await recorded(plane) == [("rep", 2, len(BODY), "valid")]
        assert await jobs(plane) == [
            {"execution": EXECUTION.hex(), "attempt": 2, "job": "job-1", "is_believed": 1, "provider": "rep"}
        ]
        (row,) = await plane.rows("SELECT provider_callback::text FROM provider_callback")
        assert "CANARY" not in row[0]
        assert "event-1" not in row[0]


async def test_a_repeated_callback_is_answered_and_does_nothing_more(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plane(database, tmp_path, catalogue(monkeypatch)) as plane:
        for _ in range(3):
            assert (await call(plane, path(plane, "rep"), headers=signed_headers(plane, "replicate"))).status == 204
        for body in (b"{}", b"{}", b"[]"):
            assert (await call(plane, path(plane, "plain"), body)).status == 204
        assert len(await recorded(plane)) == len(await jobs(plane)) == 3


async def test_what_is_forged_or_unsigned_is_a_hint_and_no_more(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plane(database, tmp_path, catalogue(monkeypatch, signature_header="X-Sign")) as plane:
        forged = signed_headers(plane, "replicate", is_forged=True)
        assert (await call(plane, path(plane, "rep"), headers=forged)).status == 204
        assert (await call(plane, path(plane, "fal"))).status == 204
        assert (await call(plane, path(plane, "plain"))).status == 204
        assert [row[3] for row in await recorded(plane)] == ["invalid", "absent", "absent"]
        assert [job["is_believed"] for job in await jobs(plane)] == [0, 0, 0]


async def test_where_a_provider_signs_nothing_knowing_the_address_is_all(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plane(database, tmp_path, catalogue(monkeypatch)) as plane:
        await call(plane, path(plane, "plain"))
        assert [job["is_believed"] for job in await jobs(plane)] == [1]


async def test_an_address_that_we_did_not_make_is_nothing(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plane(database, tmp_path, catalogue(monkeypatch)) as plane:
        right = path(plane, "rep")
        token = plane.addresses.token("rep", EXECUTION, 1)
        wrong = [
            path(plane, "rep", token="0" * 32),
            path(plane, "rep", token=token.upper()),
            path(plane, "rep", token=token[:-1]),
            path(plane, "fal", token=token),
            path(plane, "rep", attempt=2, token=token),
            path(plane, "rep", execution_id=IDS.new(), token=token),
            path(plane, "nobody"),
            right.replace("/1/", "/01/"),
            right.replace("/1/", "/0/"),
            right.replace("/1/", "/-1/"),
            right.replace("exec_", "file_"),
            right.replace(token, "%C3%BC" + token[6:]),
        ]
        unknown = await call(plane, "/v1/nothing")
        for where in wrong:
            answer = await call(plane, where, b"x" * 2_000_000)  # nothing of it is read
            assert answer.status == 404, where
            assert answer.json["error"]["code"] == unknown.json["error"]["code"]
        assert await recorded(plane) == []
        assert await jobs(plane) == []


async def test_a_callback_has_a_bounded_body(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Plane(database, tmp_path, catalogue(monkeypatch)) as plane:
        assert (await call(plane, path(plane, "rep"), b"x" * BODY_BYTES_MAX)).status == 204
        assert (await call(plane, path(plane, "rep"), b"x" * (BODY_BYTES_MAX + 1))).status == 413
        assert len(await recorded(plane)) == 1


async def test_callbacks_that_are_not_genuine_are_limited_and_those_that_are_never(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plane(database, tmp_path, catalogue(monkeypatch)) as plane:
        statuses = {(await call(plane, path(plane, "rep", token="0" * 32))).status for _ in range(PER_MINUTE + 5)}
        assert statuses == {404, 429}
        for _ in range(PER_MINUTE):
            await call(plane, path(plane, "rep"), b"{}")
        limited = await call(plane, path(plane, "rep"), b"{}")
        assert limited.status == 429
        assert int(limited.headers["retry-after"]) >= 1
        for number in range(5):
            body = b'{"id":"job-%d"}' % number
            signed_by_it = signed_headers(plane, "replicate", body)
            assert (await call(plane, path(plane, "rep"), body, headers=signed_by_it)).status == 204
        # Its provider signs nothing: whoever knows the address is believed.
        answers = [await call(plane, path(plane, "plain"), b"{}") for _ in range(PER_MINUTE + 5)]
        assert {each.status for each in answers} == {204}


async def test_what_is_ninety_days_old_is_forgotten(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Plane(database, tmp_path, catalogue(monkeypatch)) as plane:
        await call(plane, path(plane, "rep"))
        plane.clock.step_s(89 * 86_400)
        await call(plane, path(plane, "fal"))
        await plane.services.callbacks.forget()
        assert len(await recorded(plane)) == 2
        plane.clock.step_s(86_401)
        await plane.services.callbacks.forget()
        assert [row[0] for row in await recorded(plane)] == ["fal"]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_ns(self) -> int:
        return int(self.now_s * 1e9)


async def _turns() -> None:
    """For what is loaded from memory."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_public_keys_are_loaded_beside_the_requests_and_again_when_they_no_longer_fit() -> None:
    documents = [msgspec.json.encode(key_set()), b"<html>", b'{"keys":[]}']
    asked: list[str] = []
    clock = Clock()

    async def fetch(url: str) -> bytes:
        asked.append(url)
        if len(asked) > len(documents):
            raise OSError
        return documents[len(asked) - 1]

    keys = KeySets(fetch, clock)
    assert keys.keys("https://k/") == ()
    await _turns()
    found = keys.keys("https://k/")
    assert 1 <= len(found) <= PUBLIC_KEYS_MAX
    for _ in range(4):
        keys.renew("https://k/")
        assert keys.keys("https://k/") == found  # what cannot be loaded replaces nothing
        await _turns()
        clock.now_s += 61
    keys.keys("https://k/")
    await _turns()
    assert 3 <= len(asked) <= 6
