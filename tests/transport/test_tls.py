"""TLS on both sides, with certificates made here."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from tests.transport.loopback import echo, fetch, pooling, run, serving
from waypost.transport import tls
from waypost.transport.http1_client import TransportFailure


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


def test_a_missing_authority_file_is_an_error_at_once() -> None:
    with pytest.raises(OSError, match="No such file"):
        tls.client_context(ca_bundle="/nonexistent/authorities.pem")
