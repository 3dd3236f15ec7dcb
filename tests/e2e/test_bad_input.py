"""What callers get wrong is refused, with the field at fault, before any provider hears of it."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from tests.e2e.stack import KNOWN_WITHIN_S, PRICE, Answer, Stack, ask, deployment, eventually, model, provider
from waypost.storage.api_keys import Limits
from waypost.tenancy.api_key import Scope, assemble

CHAT = "/v1/chat/completions"
CANARY = "xyzzy-of-the-caller"
MESSAGES = [{"role": "user", "content": "Hi"}]


def raw(*fields: str) -> bytes:
    """A request body with these fields as they are written, after the ordinary ones."""
    return ("{" + ",".join(('"model":"swift-1"', f'"messages":{json.dumps(MESSAGES)}', *fields)) + "}").encode()


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


# Field at fault → bodies. Every value holds something that must not come back.
WRONG: dict[str | None, list[bytes | dict[str, Any]]] = {
    None: [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"model":"swift-1",}',
        raw('"temperature":NaN'),
        raw('"seed":-Infinity'),
        raw() + b"x",
        raw('"metadata":"\xff"').replace(b"\xc3\xbf", b"\xff"),
        raw('"user":"') [:-1] + b'\xe2\x82"}',
        raw(f'"metadata":{nested(64)}'),
        raw(f'"metadata":{nested(100_000)}'),
        ask([{"type": "text", "text": CANARY, "deep": json.loads(nested(62))}]),  # type: ignore[arg-type]
    ],
    "model": [
        {"messages": MESSAGES},
        {"messages": MESSAGES, "model": None},
        {"messages": MESSAGES, "model": 5},
        {"messages": MESSAGES, "model": ""},
        {"messages": MESSAGES, "model": "../" + CANARY},
        {"messages": MESSAGES, "model": "a/../b"},
        {"messages": MESSAGES, "model": f"{CANARY}\r\nx-evil: 1"},
        {"messages": MESSAGES, "model": "m" * 129},
        raw('"model":"swift-1"'),
        raw('"mod\\u0065l":"other"'),
    ],
    "messages": [
        {"model": "swift-1"},
        {"model": "swift-1", "messages": {}},
        {"model": "swift-1", "messages": []},
        {"model": "swift-1", "messages": MESSAGES * 2001},
    ],
    "messages[0]": [{"model": "swift-1", "messages": [CANARY]}],
    "messages[0].role": [{"model": "swift-1", "messages": [{"content": CANARY}]}],
    "stream": [
        ask(stream=CANARY),
        ask(stream=1),
        raw('"stream":true', '"stream":false'),
        raw('"stream":true', '"stre\\u0061m":false'),
    ],
    "stream_options": [ask(stream=True, stream_options=CANARY), ask(stream_options={"include_usage": True})],
    "stream_options.include_usage": [ask(stream=True, stream_options={"include_usage": CANARY})],
    "max_tokens": [
        *(ask(max_tokens=value) for value in (0, -1, 1.5, True, 2**31, 10**30)),
        ask(max_tokens=CANARY),
        ask(max_tokens=5, max_completion_tokens=6),
        raw('"max_tokens":1', '"max_tokens":100000'),
        raw('"max_tokens":1', '"max\\u005ftokens":100000'),
    ],
    "max_completion_tokens": [
        *(ask(max_completion_tokens=value) for value in (0, -1, 1.5, 2**31)),
        ask(max_completion_tokens=CANARY),
        raw('"max_completion_tokens":1', '"max_completion_tokens":100000'),
    ],
    "n": [*(ask(n=value) for value in (0, -1, 129, 1.5)), ask(n=CANARY), raw('"n":1', '"n":128')],
    "tools": [ask(tools=CANARY), ask(tools={})],
    "tools[0]": [ask(tools=[CANARY])],
    "functions": [ask(functions=CANARY)],
    "response_format": [ask(response_format=CANARY)],
    "temperature": [ask(temperature=CANARY), ask(temperature=[])],
    "top_p": [ask(top_p=CANARY)],
    "presence_penalty": [ask(presence_penalty=CANARY)],
    "frequency_penalty": [ask(frequency_penalty=CANARY)],
    "logprobs": [ask(logprobs=CANARY)],
    "top_logprobs": [ask(top_logprobs=-1), ask(top_logprobs=21), ask(top_logprobs=CANARY)],
    "parallel_tool_calls": [ask(parallel_tool_calls=CANARY)],
}  # fmt: skip


def check_refused(answer: Answer, status: int, code: str, *, param: str | None = None, is_openai: bool = True) -> None:
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (status, code), answer.body
    assert error["message"]
    assert CANARY.encode() not in answer.raw
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == error["request_id"]
    if is_openai:
        assert set(error) == {"message", "type", "param", "code", "request_id"}
        assert error["param"] == param, error
    else:
        assert error["retryable"] is False


async def is_known(stack: Stack, key: str) -> bool:
    return (await stack.request("GET", "/v1/models", key=key)).status == 200


async def is_unknown(stack: Stack, key: str) -> bool:
    return not await is_known(stack, key)


async def test_a_malformed_request_is_refused_with_the_field_at_fault(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        for param, bodies in WRONG.items():
            for body in bodies:
                answer = await stack.chat(body)
                check_refused(answer, 400, "INPUT_VALIDATION_ERROR", param=param)
                assert answer.headers["x-should-retry"] == "false"
        # At the limits it is taken.
        assert (await stack.chat(raw(f'"metadata":{nested(63)}'))).status == 200
        assert (await stack.chat({"model": "swift-1", "messages": MESSAGES * 2000})).status == 200
        assert (await stack.chat(ask(max_tokens=3, max_completion_tokens=3))).status == 200
        assert len(stack.sim.requests) == 3, "no provider hears of the others"
        await stack.executions(3)
        assert CANARY.encode() not in stack.log_text


async def test_size_and_media_type(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        answer = await stack.chat(ask(), headers={"content-length": str((32 << 20) + 1)})
        assert (answer.status, answer.json["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
        assert "It may have 16,777,216 bytes" in answer.json["error"]["message"]
        answer = await stack.chat(ask(), headers={"x-long": "x" * (9 << 10)})
        assert answer.status == 431
        assert "A line may have 8,192 bytes" in answer.json["error"]["message"]
        answer = await stack.chat(ask("x" * (15 << 20)))
        assert (answer.status, answer.json["error"]["code"]) == (400, "INPUT_VALIDATION_ERROR")
        assert "more than 983,040 tokens, and the model reads at most 128,000" in answer.json["error"]["message"]

        packed = zlib.compress(json.dumps(ask()).encode())
        for headers in (
            {"content-encoding": "gzip"},
            {"content-encoding": "deflate"},
            {"content-encoding": "identity, br"},
            {"content-type": "text/plain"},
            {"content-type": "multipart/form-data; boundary=x"},
        ):
            check_refused(await stack.chat(packed, headers=headers), 415, "UNSUPPORTED_MEDIA_TYPE")
        for headers in (
            {"content-type": "Application/JSON; charset=utf-8"},
            {"content-type": ""},
            {"content-encoding": "identity"},
        ):
            assert (await stack.chat(ask(), headers=headers)).status == 200


async def test_credentials(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        key = stack.key.text
        other = await stack.operator.create_key(stack.org_id, name="other", scope=Scope.FULL, limits=Limits())
        gone = await stack.operator.create_key(stack.org_id, name="gone", scope=Scope.FULL, limits=Limits())
        await eventually(lambda: is_known(stack, gone.text), KNOWN_WITHIN_S)
        await stack.operator.revoke_key(gone.id)
        await eventually(lambda: is_unknown(stack, gone.text), KNOWN_WITHIN_S)
        flipped = key[:-1] + ("0" if key[-1] != "0" else "1")
        for headers in (
            {},
            {"authorization": "Bearer"},
            {"authorization": "Bearer "},
            {"authorization": key},
            {"authorization": f"Basic {key}"},
            {"authorization": f"Bearer {flipped}"},
            {"authorization": f"Bearer {gone.text}"},
            {"authorization": f"Bearer {key.upper()}"},
            {"authorization": f"Bearer {key} {key}"},
            {"authorization": f"Bearer {assemble(bytes(32))}"},
            {"authorization": "Bearer sk_' OR 1=1 --"},
            {"x-api-key": "nonsense"},
            {"x-goog-api-key": assemble(bytes(32))},
        ):
            for path in (CHAT, "/v1/models"):
                method = "POST" if path == CHAT else "GET"
                answer = await stack.request(
                    method, path, b"not even JSON", headers={"authorization": "", **headers}, source="127.0.9.1"
                )
                check_refused(answer, 401, "UNAUTHENTICATED")
        for channel in ("authorization", "x-api-key", "x-goog-api-key"):
            shown = f"Bearer {key}" if channel == "authorization" else key
            assert (await stack.chat(ask(), headers={"authorization": "", channel: shown})).status == 200
        assert (await stack.chat(ask(), headers={"authorization": f"bearer {key}"})).status == 200
        assert (await stack.chat(ask(), headers={"x-api-key": key, "x-goog-api-key": key})).status == 200
        for headers in (
            {"x-api-key": other.text},
            {"authorization": "", "x-api-key": key, "x-goog-api-key": other.text},
        ):
            check_refused(await stack.chat(ask(), headers=headers), 400, "INPUT_VALIDATION_ERROR")
        twice = await stack.chat(ask(), headers={"Authorization": f"Bearer {other.text}"})
        assert twice.status == 400, "the header itself twice"
        await stack.executions(5)
        assert key.encode() not in stack.log_text


async def test_paths_methods_and_the_list_of_models(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        models = [
            model("swift-1", deployment("alpha"), aliases=["quick-*"]),
            model("house/swift-2", deployment("alpha"), features=["tools"]),
        ]
        await stack.adopt({"providers": [provider(stack.sim, "alpha")], "models": models})
        narrow = await stack.operator.create_key(
            stack.org_id, name="narrow", scope=Scope.FULL, limits=Limits(models=frozenset({"house/swift-2"}))
        )
        listed = (await stack.request("GET", "/v1/models")).json
        assert [entry["id"] for entry in listed["data"]] == ["swift-1", "house/swift-2"]
        assert listed["data"][0]["pricing"]["input"] == PRICE["input"]
        for path in ("/v1/models/house/swift-2", "/v1/models/house%2Fswift-2", "/v1/models/house%2fswift-2"):
            shown = (await stack.request("GET", path)).json
            assert shown.pop("input_schema")["required"] == ["messages"]
            assert shown == listed["data"][1]
        assert (await stack.request("GET", "/v1/models/quick-anything")).json["id"] == "swift-1"
        head = await stack.request("HEAD", "/v1/models")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) > 0
        check_refused(await stack.request("GET", "/v1/models/none"), 404, "NOT_FOUND", param="model")

        for path in ("/healthz", "/readyz"):
            assert (await stack.request("GET", path, headers={"authorization": ""})).status == 200
        check_refused(await stack.request("GET", CHAT), 405, "METHOD_NOT_ALLOWED")
        check_refused(await stack.request("DELETE", "/v1/models/swift-1"), 405, "METHOD_NOT_ALLOWED")
        for path in ("/", "/v1", "/v1/nothing", "/v1/chat/completions/", "//v1/models", "/v1/chat%2Fcompletions"):
            check_refused(await stack.request("POST", path, ask()), 404, "NOT_FOUND", is_openai=False)

        unknown = await stack.chat({**ask(), "model": "unheard-of"})
        check_refused(unknown, 404, "NOT_FOUND", param="model")
        # A key made a moment ago is known within two seconds.
        await eventually(lambda: is_known(stack, narrow.text), KNOWN_WITHIN_S)
        seen = (await stack.request("GET", "/v1/models", key=narrow.text)).json["data"]
        assert [entry["id"] for entry in seen] == ["house/swift-2"]
        assert (await stack.chat({**ask(), "model": "house/swift-2"}, key=narrow.text)).status == 200
        forbidden = await stack.chat({**ask(), "model": "swift-1"}, key=narrow.text)
        check_refused(forbidden, 404, "NOT_FOUND", param="model")
        assert forbidden.json["error"]["message"] == unknown.json["error"]["message"], "nobody learns what exists"


async def test_without_enough_credit(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path, credit_usd=0) as stack:
        refused = await stack.chat(ask())
        check_refused(refused, 402, "INSUFFICIENT_BALANCE")
        assert refused.json["error"]["type"] == "insufficient_quota"
        assert refused.headers["x-should-retry"] == "false"
        assert len(stack.sim.requests) == 0

        await stack.operator.add_credit(stack.org_id, 10_000_000, "one cent")
        too_long = await stack.chat(ask(max_tokens=8000))
        check_refused(too_long, 402, "INSUFFICIENT_BALANCE")
        (affordable,) = [int(word) for word in too_long.json["error"]["message"].split() if word.isdigit()]
        assert 900 < affordable < 1000, "a cent's worth at 10 USD per million, without the input"
        # Two more, since the shorter number makes the body a byte shorter.
        assert (await stack.chat(ask(max_tokens=affordable + 2))).status == 402
        assert (await stack.chat(ask(max_tokens=affordable))).status == 200

        # Without a wish of the caller's the answer may be as long as the balance affords, and the provider is told.
        assert (await stack.chat(ask())).status == 200
        asked = json.loads(stack.sim.requests[-1].body)
        assert 800 < asked["max_completion_tokens"] < affordable
