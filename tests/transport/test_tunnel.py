"""Providers behind an HTTP proxy: TLS runs through it, and what it refuses is a failure to connect."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import trustme

from tests.transport.loopback import PATIENT, Recorder, echo, origin, run, serving
from waypost.transport import tls
from waypost.transport.http1_client import Pool, TransportFailure
from waypost.transport.origin import Origin
from waypost.transport.tunnel import Proxy


class TunnelServer:
    """A proxy that connects, and remembers what it was asked and what went through."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.carried = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        writer.write(self.answer)
        if b" 200 " not in self.answer:
            return
        port = int(head.split(b" ")[1].rpartition(b":")[2])
        further, further_writer = await asyncio.open_connection("127.0.0.1", port)

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await source.read(1 << 16):
                    self.carried += data
                    sink.write(data)
            sink.close()

        try:
            await asyncio.gather(carry(reader, further_writer), carry(further, writer))
        finally:  # also when the test is over before both sides are
            further_writer.close()
            writer.close()


async def fetch_through(proxy: Proxy, port: int, ca: str = "", host: str = "localhost") -> Recorder:
    context = tls.client_context(ca_bundle=ca) if ca else None
    pool = Pool(Origin(host=host, port=port, ssl_context=context, server_hostname=host, proxy=proxy))
    recorder = Recorder()
    pool.call(b"POST /v1 HTTP/1.1\r\nhost: a\r\n", b"secret", recorder, PATIENT)
    await recorder.is_over.wait()
    await pool.close()
    return recorder


def test_tls_runs_through_it_so_that_the_proxy_reads_nothing(tmp_path: Path) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def main() -> None:
        both = str(tmp_path / "both.pem")
        proxy = TunnelServer()
        async with (
            serving(echo, ssl_context=tls.server_context(certificate=both, private_key=both)) as server,
            origin(proxy) as port,
        ):
            through = Proxy("127.0.0.1", port, b"Basic dTpw")
            recorder = await fetch_through(through, server.port, str(tmp_path / "ca.pem"))
            assert recorder.failure is None
            assert recorder.body.endswith(b"b'secret')")
            assert proxy.asked == [
                b"CONNECT localhost:%d HTTP/1.1\r\nhost: localhost:%d\r\nproxy-authorization: Basic dTpw\r\n\r\n"
                % (server.port, server.port)
            ]
            assert b"secret" not in proxy.carried
            # The name is verified through the tunnel, too.
            other = await fetch_through(through, server.port, str(tmp_path / "ca.pem"), "127.0.0.1")
            assert other.failure is TransportFailure.TLS

    run(main())


def test_a_proxy_that_refuses_answers_nonsense_or_is_away_is_a_failure_to_connect() -> None:
    async def main() -> None:
        for answer in (b"HTTP/1.1 407 No\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"", b"HTTP/1.1 200 " + b"x" * 9000):
            async with origin(TunnelServer(answer)) as port:
                recorder = await fetch_through(Proxy("127.0.0.1", port), 1)
                assert recorder.failure is TransportFailure.CONNECT_REFUSED
        assert (await fetch_through(Proxy("127.0.0.1", port), 1)).failure is TransportFailure.CONNECT_REFUSED

    run(main())


def test_a_proxy_is_never_shown_with_its_password() -> None:
    assert "dTpw" not in f"{Proxy('h', 1, b'Basic dTpw')!r} {Origin(proxy=Proxy('h', 1, b'Basic dTpw'))!r}"
