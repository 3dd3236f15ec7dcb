"""Browsers on other sites."""

from __future__ import annotations

from tests.transport.loopback import connected, read_answer, run, serving
from waypost.gateway.cross_origin import CrossOrigin
from waypost.transport.http1_server import Exchange

ALLOWED = "https://app.example.org"


def answer(exchange: Exchange) -> None:
    if exchange.path == "/stream":
        exchange.begin(200, b"x-request-id: req_1\r\n")
        exchange.end(b"part")
    else:
        exchange.respond(401 if exchange.path == "/refused" else 200, b"x-request-id: req_1\r\n", b"answered")


async def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, dict[str, str]]:
    async with connected(port) as (reader, writer):
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: a\r\n{lines}\r\n".encode())
        told = await read_answer(reader, is_head_request=method == "HEAD")
        return told.status, told.headers


def test_answers_of_every_kind_name_the_origin_that_asked_and_only_an_allowed_one() -> None:
    async def main() -> None:
        cors = CrossOrigin([ALLOWED, "http://localhost:3000"], answer)
        async with serving(cors.handle) as server:
            for path, status in (("/", 200), ("/refused", 401), ("/stream", 200)):
                told, headers = await ask(server.port, "POST", path, origin=ALLOWED)
                assert (told, headers["access-control-allow-origin"], headers["vary"]) == (status, ALLOWED, "origin")
                assert "x-request-id" in headers["access-control-expose-headers"]
                assert "access-control-allow-credentials" not in headers
            for origin in ("https://app.example.org.evil", "https://APP.example.org", "null", "https://example.org"):
                _, headers = await ask(server.port, "GET", "/", origin=origin)
                assert "access-control-allow-origin" not in headers
                assert headers["vary"] == "origin"
            assert (await ask(server.port, "GET", "/"))[1]["vary"] == "origin"

    run(main())


def test_a_preflight_is_answered_here_and_an_ordinary_options_is_not() -> None:
    async def main() -> None:
        async with serving(CrossOrigin([ALLOWED], answer).handle) as server:
            status, headers = await ask(
                server.port,
                "OPTIONS",
                "/v1/chat/completions",
                origin=ALLOWED,
                access_control_request_method="POST",
                access_control_request_headers="authorization, content-type",
            )
            assert (status, headers["access-control-allow-origin"]) == (204, ALLOWED)
            assert headers["access-control-allow-headers"] == "authorization, content-type"
            assert "post" in headers["access-control-allow-methods"]
            assert headers["access-control-max-age"] == "600"
            assert "origin" in headers["vary"]
            assert (await ask(server.port, "OPTIONS", "/", origin=ALLOWED))[0] == 200  # the handler's
            foreign = await ask(
                server.port, "OPTIONS", "/", origin="https://b.example", access_control_request_method="POST"
            )
            assert "access-control-allow-origin" not in foreign[1]

    run(main())


def test_what_a_preflight_asks_for_goes_back_only_as_header_names() -> None:
    async def main() -> None:
        async with serving(CrossOrigin([ALLOWED], answer).handle) as server:
            status, headers = await ask(
                server.port,
                "OPTIONS",
                "/",
                origin=ALLOWED,
                access_control_request_method="POST",
                access_control_request_headers='a"; <b>',
            )
            assert (status, "access-control-allow-headers" in headers) == (204, False)

    run(main())
