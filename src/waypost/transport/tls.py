"""TLS contexts: verified towards providers, at least TLS 1.2 on both sides."""

from __future__ import annotations

import os
import ssl
from functools import cache


def client_context(*, ca_bundle: str = "") -> ssl.SSLContext:
    """Verifies certificate and host name, against the system's authorities and those in `ca_bundle` (a PEM file).

    One for all who ask for the same: reading the authorities takes a tenth of a second.

    Raises OSError or ssl.SSLError when the file cannot be read as certificates.
    """
    stamp = os.stat(ca_bundle) if ca_bundle else None
    return _client_context(ca_bundle, None if stamp is None else (stamp.st_ino, stamp.st_size, stamp.st_mtime_ns))


@cache
def _client_context(ca_bundle: str, _stamp: tuple[int, int, int] | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_bundle:
        context.load_verify_locations(cafile=ca_bundle)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class TlsFilesUnusable(Exception):
    """A certificate or its key cannot be served. The message is a sentence for the operator and quotes nothing."""


class ServerTls:
    """The certificate of a server. Handshakes from `load` on use the new one; connections that are open go on."""

    def __init__(self) -> None:
        self._current: ssl.SSLContext | None = None
        self.context = _bare_server_context()
        """For `listen`. A handshake that begins takes the newest certificate in place of this empty context."""
        self.context.sni_callback = self._choose

    def load(self, certificate: str, private_key: str) -> None:
        """Serve this from now on. Raises TlsFilesUnusable: then nothing has changed."""
        self._current = server_context(certificate=certificate, private_key=private_key)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        if self._current is not None:
            connection.context = self._current


def server_context(*, certificate: str, private_key: str) -> ssl.SSLContext:
    """Serves the certificate chain of one PEM file with the key of another. Raises TlsFilesUnusable."""
    context = _bare_server_context()
    for path in (certificate, private_key):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise TlsFilesUnusable(f"{path} cannot be read ({error.strerror}): give the path of a PEM file") from None
    try:
        context.load_cert_chain(certificate, private_key, password=_no_password)
    except _Encrypted:
        raise TlsFilesUnusable(
            f"{private_key} asks for a password: store the key without one, readable by us"
        ) from None
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            sentence = f"{private_key} is not the key of the first certificate in {certificate}"
        else:
            sentence = f"{certificate} and {private_key} are not a PEM certificate chain and its PEM private key"
        raise TlsFilesUnusable(sentence) from None
    return context


class _Encrypted(Exception):
    """The private key would need a password."""


def _no_password() -> str:
    raise _Encrypted


def _bare_server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A renegotiation costs us far more than the caller who asks for it.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    return context
