"""Errands to a provider: what was never sent, what was answered, and what nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.dispatch.test_fleet import PRICE, Secrets
from tests.transport.loopback import Script, origin, playing, read_request
from waypost.dispatch.errands import Errands
from waypost.dispatch.fleet import Fleet
from waypost.kit.values import replace
from waypost.ledger.record import LedgerUnavailable
from waypost.policy.catalogue import Catalogue
from waypost.policy.circuit import Phase
from waypost.policy.document import read_catalogue
from waypost.policy.snapshot import View, build_view
from waypost.telemetry.metrics import Counter
from waypost.wire.errand import Ambiguous, Answered, Errand, NotSent

OK = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nx-secret: s\r\ncontent-length: 2\r\n\r\n{}"
CLOSED_PORT = 1


class Desk:
    """Errands to one provider `alpha` with two keys."""

    def __init__(self, port: int, **fields: Any) -> None:
        provider = {
            "id": "alpha",
            "kind": "openai",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "api_keys": ["env:ONE", "env:TWO"],
            "breaker": {"consecutive": 2, "open_s": 60},
            **fields,
        }
        model = {
            "slug": "swift-1",
            "modality": "chat",
            "context_window": 1000,
            "max_output": 100,
            "price": PRICE,
            "deployments": [{"provider": "alpha", "upstream_model": "m", "cost": PRICE}],
        }
        view = build_view(read_catalogue({"providers": [provider], "models": [model]}), 1)
        self.fleet = Fleet(Secrets(ONE="key-1", TWO="key-2"), lambda: 0.5)
        self.fleet.adopt(view)
        (self.live,) = self.fleet.deployments()
        self.counted = Counter("errands", "", ("provider", "deployment", "outcome"))
        self.views = {1: view}
        self.errands = Errands(
            self.fleet,
            digest=lambda secret: f"digest of {secret}",
            counted=self.counted,
            earlier_view=self._earlier_view,
        )
        self.errand = Errand(
            provider="alpha",
            deployment=self.live.deployment.id,
            method="POST",
            url="/v1/predictions?a=b",
            timeout_s=10.0,
            headers=(("content-type", "application/json"), ("idempotency-key", "exec:1")),
            body=b'{"input":{}}',
        )

    async def _earlier_view(self, version: int) -> View | None:
        if version < 0:
            raise LedgerUnavailable
        return self.views.get(version)

    async def run(self, **changes: Any) -> Any:
        return await self.errands.run(replace(self.errand, **changes))


@asynccontextmanager
async def desk(script: Script | None = None, **fields: Any) -> AsyncIterator[Desk]:
    """Before a provider that runs the script; without one nobody listens."""
    if script is None:
        yield Desk(CLOSED_PORT, **fields)
        return
    async with origin(script) as port:
        made = Desk(port, **fields)
        yield made
        await made.fleet.close()


def reading(seen: list[bytes], answer: bytes = OK) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_request(reader))
            writer.write(answer)

    return script


async def test_what_is_at_a_provider_that_the_catalogue_has_forgotten_is_asked_for_there() -> None:
    async with desk(reading([])) as at:
        at.fleet.adopt(build_view(Catalogue(), 2))
        assert (await at.run()).reason == "unknown_deployment"
        for _ in range(2):
            assert (await at.run(catalogue_version=1)).status == 201
        assert at.fleet.earlier(at.views[1], at.errand.deployment) is at.fleet.earlier(
            at.views[1], at.errand.deployment
        )
        assert list(at.fleet.deployments()) == [], "it gets nothing new"
        assert (await at.run(catalogue_version=1, deployment="alpha/other")).reason == "unknown_deployment"
        assert (await at.run(catalogue_version=7)).reason == "unknown_deployment"
        assert (await at.run(catalogue_version=-1)).reason == "catalogue_unavailable"


async def test_an_errand_goes_out_with_a_credential_and_comes_back_with_its_digest() -> None:
    seen: list[bytes] = []
    async with desk(reading(seen)) as at:
        answers = [await at.run() for _ in range(2)]
        assert [answer.credential for answer in answers] == ["digest of key-1", "digest of key-2"]
        assert (answers[0].status, answers[0].body) == (201, b"{}")
        assert answers[0].headers == {b"content-type": b"application/json"}
        head, _, body = seen[0].partition(b"\r\n\r\n")
        assert body == b'{"input":{}}'
        lines = head.split(b"\r\n")
        assert lines[0] == b"POST /v1/predictions?a=b HTTP/1.1"
        assert {b"authorization: Bearer key-1", b"idempotency-key: exec:1", b"content-type: application/json"} < set(
            lines
        )
        assert at.live.gate.places.in_flight == 0


async def test_the_credential_that_submitted_can_be_asked_for_and_spelled_as_the_provider_wants() -> None:
    seen: list[bytes] = []
    async with desk(reading(seen)) as at:
        for _ in range(3):
            answer = await at.run(credential="digest of key-2", credential_scheme="Key")
            assert answer.credential == "digest of key-2"
        assert all(b"\r\nauthorization: Key key-2\r\n" in each for each in seen)
        assert await at.run(credential="digest of another") == NotSent("no_credential")


async def test_a_whole_url_goes_to_the_providers_origin_alone() -> None:
    seen: list[bytes] = []
    async with desk(reading(seen)) as at:
        base = at.live.provider.base_url.removesuffix("/v1")
        assert isinstance(await at.run(method="GET", url=f"{base}/requests/1/status?logs=1", body=b""), Answered)
        assert seen[0].startswith(b"GET /requests/1/status?logs=1 HTTP/1.1\r\n")
        for foreign in (f"{base}0/x", f"{base}@evil.example/x", "http://evil.example/x", "//evil.example/x", "ftp:x"):
            assert await at.run(url=foreign) == NotSent("foreign_url"), foreign
        assert len(seen) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "/a\r\nx: y"},
        {"url": "/a b"},
        {"headers": (("x", "a\r\nb: c"),)},
        {"headers": (("content-length", "3"),)},
        {"method": "TRACE"},
        {"timeout_s": 0.0},
    ],
)
def test_nothing_breaks_out_of_its_place(changes: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"provider": "a", "deployment": "a/m", "method": "GET", "url": "/", "timeout_s": 1.0}
    with pytest.raises(ValueError, match=r"not a|written by"):
        Errand(**{**plain, **changes})


async def test_what_could_not_be_sent_says_so_and_opens_the_circuit() -> None:
    async with desk() as at:
        for _ in range(4):
            assert await at.run() == NotSent("connect_refused")
        assert {each.health.circuit.phase for each in at.live.credentials} == {Phase.OPEN}
        blocked = await at.run()
        assert blocked.reason == "circuit_open"
        assert 0 < blocked.retry_after_s <= 80
        assert (await at.run(credential="digest of key-1")).reason == "circuit_open"
        await at.fleet.close()


async def test_what_was_sent_and_then_lost_is_ambiguous() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.transport.abort()

    async with desk(hang_up) as at:
        assert await at.run() == Ambiguous("reset", credential="digest of key-1")

    async def say_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK[:-1])
        await writer.drain()

    async with desk(say_half) as at:
        assert await at.run() == Ambiguous("truncated", 201, "digest of key-1")

    async with desk(reading([], b"HTTP/1.1 200 OK\r\n")) as at:
        assert (await at.run(timeout_s=0.3)) == Ambiguous("total_timeout", credential="digest of key-1")


async def test_a_rate_limit_rests_the_credential_and_a_500_counts_against_its_circuit() -> None:
    limited = b"HTTP/1.1 429 Too Many\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n"
    async with desk(playing(limited)) as at:
        answers = [await at.run() for _ in range(2)]
        assert [(answer.status, answer.headers[b"retry-after"]) for answer in answers] == [(429, b"30")] * 2
        resting = await at.run()
        assert (resting.reason, 25 < resting.retry_after_s <= 30) == ("resting", True)
        assert {each.health.circuit.phase for each in at.live.credentials} == {Phase.CLOSED}

    async with desk(playing(b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n")) as at:
        for _ in range(4):
            assert (await at.run()).status == 500
        assert (await at.run()).reason == "circuit_open"


async def test_a_provider_whose_places_are_taken_is_not_waited_for_longer_than_anybody_waits() -> None:
    release = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            await release.wait()
            writer.write(OK)

    async with desk(wait, bulkhead={"in_flight": 1, "queue": 1, "wait_s": 0.1}) as at:
        first = asyncio.ensure_future(at.run())
        while not at.live.gate.places.in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert (await at.run()).reason == "bulkhead_full"
        second = asyncio.ensure_future(at.run())
        await asyncio.sleep(0.01)
        assert (await at.run()).reason == "bulkhead_full"
        release.set()
        assert isinstance(await first, Answered)
        assert isinstance(await second, Answered)
        assert (at.live.gate.places.in_flight, at.live.gate.places.waiting) == (0, 0)


async def test_whoever_is_cancelled_gives_back_place_and_connection() -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.sleep(60)
        writer.write(OK)

    async with desk(wait, bulkhead={"in_flight": 1, "queue": 1, "wait_s": 60}) as at:
        running = [asyncio.ensure_future(at.run()) for _ in range(2)]
        await asyncio.sleep(0.05)
        for task in reversed(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert (at.live.gate.places.in_flight, at.live.gate.places.waiting) == (0, 0)
        assert {each.health.circuit.phase for each in at.live.credentials} == {Phase.CLOSED}


async def test_an_unknown_deployment_is_told() -> None:
    async with desk() as at:
        assert await at.run(deployment="alpha/other") == NotSent("unknown_deployment")
        assert await at.run(provider="beta") == NotSent("unknown_deployment")
        await at.fleet.close()
