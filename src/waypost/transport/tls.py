"""TLS contexts: verified towards providers, at least TLS 1.2 on both sides."""

from __future__ import annotations

import ssl
from functools import cache


@cache
def client_context(*, ca_bundle: str = "") -> ssl.SSLContext:
    """Verifies certificate and host name, against the system's authorities and those in `ca_bundle` (a PEM file).

    One for all who ask for the same: reading the authorities takes a tenth of a second.

    Raises OSError or ssl.SSLError when the file cannot be read as certificates.
    """
    context = ssl.create_default_context()
    if ca_bundle:
        context.load_verify_locations(cafile=ca_bundle)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def server_context(*, certificate: str, private_key: str) -> ssl.SSLContext:
    """Serves the certificate chain of one PEM file with the key of another. Raises OSError or ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private_key)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A renegotiation costs us far more than the caller who asks for it.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    return context
