"""TLS on both sides, with certificates made here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.transport.loopback import echo, fetch, pooling, run, serving
from waypost.transport import tls
from waypost.transport.http1_client import TransportFailure

AUTHORITY = trustme.CA()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate for `localhost`, and its key, as PEM files."""
    folder: Path = tmp_path_factory.mktemp("tls")
    files = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *names, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def test_calls_run_over_verified_tls_and_reuse_the_connection(certificate: tuple[str, str]) -> None:
    async def main() -> None:
        theirs = tls.server_context(certificate=certificate[0], private_key=certificate[1])
        ours = tls.client_context(ca_bundle=certificate[0])
        async with (
            serving(echo, ssl_context=theirs) as server,
            pooling(server.port, host="localhost", ssl_context=ours) as pool,
        ):
            body = bytes(range(256)) * 4000
            for _ in range(3):
                assert (await fetch(pool, b"hello")).body.endswith(b"b'hello')")
            assert repr(body).encode() in (await fetch(pool, body)).body
            assert pool.open == 1

    run(main())


def test_an_unknown_authority_or_another_name_is_refused(certificate: tuple[str, str]) -> None:
    async def main() -> None:
        theirs = tls.server_context(certificate=certificate[0], private_key=certificate[1])
        async with serving(echo, ssl_context=theirs) as server:
            for host, context in (
                ("localhost", tls.client_context()),
                ("127.0.0.1", tls.client_context(ca_bundle=certificate[0])),
            ):
                async with pooling(server.port, host=host, ssl_context=context) as pool:
                    recorder = await fetch(pool)
                    assert recorder.failure is TransportFailure.TLS
                    assert pool.open == 0
            assert server.exchanges == 0

    run(main())


def test_an_origin_that_does_not_speak_tls_is_a_tls_failure(certificate: tuple[str, str]) -> None:
    async def main() -> None:
        context = tls.client_context(ca_bundle=certificate[0])
        async with serving(echo) as server, pooling(server.port, host="localhost", ssl_context=context) as pool:
            assert (await fetch(pool)).failure is TransportFailure.TLS

    run(main())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_versions_before_1_2_are_not_spoken(certificate: tuple[str, str]) -> None:
    async def main() -> None:
        theirs = tls.server_context(certificate=certificate[0], private_key=certificate[1])
        old = ssl.create_default_context(cafile=certificate[0])
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        async with (
            serving(echo, ssl_context=theirs) as server,
            pooling(server.port, host="localhost", ssl_context=old) as pool,
        ):
            assert (await fetch(pool)).failure is TransportFailure.TLS

    run(main())


def issue(directory: Path, name: str, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> tuple[str, str]:
    made = AUTHORITY.issue_cert("localhost", key_type=kind)
    files = directory / f"{name}.pem", directory / f"{name}.key"
    files[0].write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
    made.private_key_pem.write_to_path(files[1])
    return str(files[0]), str(files[1])


async def serial_number(port: int, authority: str) -> object:
    """Of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=authority)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    shown = writer.get_extra_info("ssl_object").getpeercert()
    writer.close()
    return shown["serialNumber"]


def test_new_connections_get_the_new_certificate_and_open_ones_go_on(tmp_path: Path) -> None:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority = str(tmp_path / "ca.pem")

    async def main() -> None:
        theirs = tls.ServerTls()
        theirs.load(*issue(tmp_path, "first", trustme.KeyType.RSA))
        ours = tls.client_context(ca_bundle=authority)
        async with (
            serving(echo, ssl_context=theirs.context) as server,
            pooling(server.port, host="localhost", ssl_context=ours) as pool,
        ):
            await fetch(pool)
            before = await serial_number(server.port, authority)
            theirs.load(*issue(tmp_path, "second"))
            after = await serial_number(server.port, authority)
            assert before != after
            assert (await fetch(pool)).status == 200
            assert pool.open == 1
            with pytest.raises(tls.TlsFilesUnusable):
                theirs.load(str(tmp_path / "first.pem"), str(tmp_path / "second.key"))
            assert await serial_number(server.port, authority) == after

    run(main())


def test_files_that_cannot_be_served_are_told_apart(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "one")
    (tmp_path / "text").write_text("hello")
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", key, "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    for files, sentence in (
        (("/nonexistent", key), "/nonexistent cannot be read (No such file or directory)"),
        ((certificate, str(tmp_path / "text")), "are not a PEM certificate chain and its PEM private key"),
        ((certificate, issue(tmp_path, "two")[1]), "is not the key of the first certificate"),
        ((certificate, issue(tmp_path, "three", trustme.KeyType.RSA)[1]), "is not the key of the first certificate"),
        ((certificate, str(locked)), "asks for a password"),
    ):
        with pytest.raises(tls.TlsFilesUnusable) as caught:
            tls.server_context(certificate=files[0], private_key=files[1])
        assert sentence in str(caught.value)


def test_a_missing_authority_file_is_an_error_at_once() -> None:
    with pytest.raises(OSError, match="No such file"):
        tls.client_context(ca_bundle="/nonexistent/authorities.pem")


def test_a_caller_who_says_goodbye_with_its_request_is_answered(certificate: tuple[str, str]) -> None:
    """Request and the end of its TLS session in one segment: the answer was given before the end was read."""

    def shake_hands(port: int) -> tuple[socket.socket, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = tls.client_context(ca_bundle=certificate[0])
        session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        raw = socket.create_connection(("127.0.0.1", port), timeout=5)
        while True:
            try:
                session.do_handshake()
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(65536))
            else:
                raw.sendall(outgoing.read())
                return raw, session, incoming, outgoing

    def ask(port: int) -> bytes:
        raw, session, incoming, outgoing = shake_hands(port)
        with raw:
            session.write(b"GET /bye HTTP/1.1\r\nhost: a\r\n\r\n")
            with contextlib.suppress(ssl.SSLWantReadError):
                session.unwrap()
            raw.sendall(outgoing.read())
            with contextlib.suppress(ConnectionResetError):
                while data := raw.recv(65536):
                    incoming.write(data)
            answer = b""
            with contextlib.suppress(ssl.SSLError):
                while part := session.read(65536):
                    answer += part
            return answer

    async def main() -> None:
        theirs = tls.server_context(certificate=certificate[0], private_key=certificate[1])
        async with serving(echo, ssl_context=theirs) as server:
            assert b"/bye" in await asyncio.to_thread(ask, server.port)

    run(main())
