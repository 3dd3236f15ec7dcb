"""Refusals that are rendered once, and those of calls that are not even read."""

from __future__ import annotations

import json
import time

import pytest

from waypost.gateway import early_refusal, refusing
from waypost.gateway.early_refusal import EarlyRefusals
from waypost.gateway.heads import request_header
from waypost.gateway.pressure import Pressure
from waypost.gateway.refusing import SHED, telling
from waypost.gateway.relay import JSON_TYPE
from waypost.kit import ids
from waypost.kit.errors import DETAILS, ErrorCode, Fault, InvalidFields, NoEligibleRoute, Refusal, invalid
from waypost.kit.ids import Ids
from waypost.telemetry.metrics import Counter
from waypost.wire.dialects import error_headers, render_error

DIALECTS = ("openai", "anthropic", "gemini", "canonical")
DATE = b"date: Thu, 26 Nov 2026 22:00:00 GMT\r\n"
PATHS = {
    "/v1/chat/completions": "openai",
    "/v1/responses": "openai",
    "/v1/embeddings": "openai",
    "/v1/images/generations": "openai",
    "/v1/messages": "anthropic",
    "/v1beta/models/swift-1:generateContent": "gemini",
    "/v1beta/models/a%2Fb:streamGenerateContent": "gemini",
}
REFUSALS = [
    *(Refusal(code) for code in ErrorCode),
    *(Refusal(ErrorCode.INPUT_VALIDATION_ERROR, "100 %b", param="a.b", detail=detail) for detail in DETAILS),
    *(Refusal(ErrorCode.RATE_LIMITED, retry_after_s=wait_s) for wait_s in (1, 2, 66)),
    NoEligibleRoute({"region": 1}),
    NoEligibleRoute({"region": 2}),
    InvalidFields([Fault("a", "REQUIRED", "A is needed.")]),
    InvalidFields([Fault("a", "REQUIRED", "A is needed."), Fault("b", "REQUIRED", "B is needed.")]),
]


def request(path: str, headers: str = "", method: str = "POST") -> bytes:
    body = b'{"model":"swift-1"}'
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_refusal_told_again_is_what_it_would_be_if_it_were_rendered_anew(dialect: str) -> None:
    source = Ids()
    for refusal in (*REFUSALS, *REFUSALS):
        request_id = source.new()
        shown = ids.text("req", request_id)
        told = telling(dialect, refusal)
        assert (told.status, told.code) == (refusal.code.status, refusal.code.name)
        assert shown.encode().join(told.body) == render_error(dialect, refusal, shown)
        lines = JSON_TYPE + request_header(request_id, dialect) + error_headers(refusal)
        assert shown.encode().join(told.lines) == lines


class Place:
    """What sheds everybody, unless it is told otherwise."""

    def __init__(self, *, is_full: bool = True) -> None:
        self.shed = Counter("shed", "")
        self.answers = Counter("answers", "", ("model", "outcome", "code"))
        self.pressure = Pressure(lambda: 0.5, self.shed)
        self.pressure.close()
        self.pressure.shedding.look(0.0, lag_s=0.0, memory_share=1.0 if is_full else 0.0)
        self.early = EarlyRefusals(self.pressure, Ids(), self.answers)


@pytest.mark.parametrize("path", PATHS)
async def test_a_call_that_is_not_read_is_refused_in_its_format(path: str) -> None:
    place = Place()
    seen = set()
    for date_line in (DATE, DATE, DATE.replace(b"00 GMT", b"01 GMT")):
        head, _, body = place.early.answer(request(path), date_line).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert status == "HTTP/1.1 503 Service Unavailable"
        assert f"date: {headers['date']}\r\n".encode() == date_line
        assert (headers["content-type"], headers["retry-after"]) == ("application/json", "2")
        assert int(headers["content-length"]) == len(body)
        request_id = headers["x-request-id"]
        assert ids.parse("req", request_id)
        seen.add(request_id)
        assert body == render_error(PATHS[path], SHED[2], request_id)
        assert json.loads(body)
        assert headers.get("request-id") == (request_id if PATHS[path] == "anthropic" else None)
    assert len(seen) == 3
    assert place.shed.counts == {(): 3}
    assert place.answers.counts == {("", "refused", "SERVICE_UNAVAILABLE"): 3}


@pytest.mark.parametrize(
    "data",
    [
        request("/v1/chat/completions")[:-1],
        request("/v1/chat/completions") * 2,
        request("/v1/chat/completions", "Connection: close\r\n"),
        request("/v1/chat/completions?key=x"),
        request("/v1/chat/completions", method="GET"),
        request("/v1/models"),
        request("/healthz", method="GET"),
        request("/v1/executions"),
        request("/v1/messages/count_tokens"),
        request("/v1beta/models/swift-1:countTokens"),
        b"\r\n" + request("/v1/chat/completions"),
    ],
)
async def test_whatever_else_is_read_and_nothing_is_counted(data: bytes) -> None:
    place = Place()
    assert place.early.answer(data, DATE) == b""
    assert not place.shed.counts
    assert not place.answers.counts


async def test_nobody_is_refused_unread_before_somebody_was_admitted_in_the_turn() -> None:
    place = Place(is_full=False)
    data = request("/v1/chat/completions")
    ends_s = time.thread_time() + 0.01
    while time.thread_time() < ends_s:
        assert place.early.answer(data, DATE) == b""
    assert place.pressure.shed() == 0
    assert place.early.answer(data, DATE).startswith(b"HTTP/1.1 503 ")


async def test_no_word_of_a_caller_is_kept_beyond_its_request() -> None:
    """Not a key in an address, nor a name in a refusal."""
    place = Place()
    caches = (early_refusal._dialect_of, refusing._standing)
    assert place.early.answer(request("/v1/messages"), DATE)
    known = [cache.cache_info().currsize for cache in caches]
    for number in range(3):
        path = f"/v1beta/models/m:generateContent?key=wp_{number}"
        assert place.early.answer(request(path), DATE) == b""
        assert place.early.answer(request(f"/v1beta/models/{'m' * 300}{number}:generateContent"), DATE) == b""
        told = refusing.telling(
            "openai", invalid(f"jane_doe_{number}", f"This model cannot be given: jane_doe_{number}")
        )
        assert f"jane_doe_{number}".encode() in b"".join(told.body)
    assert [cache.cache_info().currsize for cache in caches] == known
