"""Addresses at which a provider cannot be reached, each in its own way."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from tests.e2e.test_catalogue_settings import full_backlog

_FATAL_HANDSHAKE_FAILURE = bytes.fromhex("15030300020228")


@asynccontextmanager
async def bad_places(authority_file: Path) -> AsyncIterator[dict[str, str]]:
    """Fault → base URL. The file gets the authority that is to be trusted."""
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(authority_file)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    certificates = {
        "tls_expired": authority.issue_cert("localhost", not_before=yesterday - timedelta(days=1), not_after=yesterday),
        "tls_wrong_host": authority.issue_cert("another.example"),
        "tls_self_signed": stranger.issue_cert("localhost"),
    }
    async with AsyncExitStack() as stack:
        ports = {}
        for fault, certificate in certificates.items():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            ports[fault] = await _serve(stack, b"", context)
        ports["tls_stall"] = await _serve(stack, None)
        ports["tls_alert"] = await _serve(stack, _FATAL_HANDSHAKE_FAILURE)
        ports["tls_plain"] = await _serve(stack, b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        urls = {fault: f"https://localhost:{port}/v1" for fault, port in ports.items()}
        urls["no_syn_ack"] = stack.enter_context(full_backlog())
        urls["dns"] = "http://nowhere.invalid/v1"  # RFC 6761: never there
        yield urls


async def _serve(stack: AsyncExitStack, answer: bytes | None, context: ssl.SSLContext | None = None) -> int:
    """A port where every connection gets this answer to its first bytes; None: never one."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        if answer is not None:
            writer.write(answer)
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", ssl=context)
    stack.callback(server.close)
    return int(server.sockets[0].getsockname()[1])
