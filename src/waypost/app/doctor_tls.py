"""The doctor's look at the certificate that callers are shown."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from waypost.app.finding import Finding, Verdict
from waypost.app.front import SettingUnusable, make_egress
from waypost.app.live_settings import LiveSettings
from waypost.kit.clock import Clock
from waypost.transport.tls import TlsFilesUnusable, server_context

ENDS_SOON = timedelta(days=14)


def certificates(live: LiveSettings, clock: Clock) -> Iterator[Finding]:
    """Ours, and the authorities that providers are verified against."""
    if live.tls is not None:
        try:
            server_context(certificate=live.tls.certificate, private_key=live.tls.private_key)
        except TlsFilesUnusable as error:
            yield Finding("tls", Verdict.BAD, str(error))
        else:
            yield _validity(live.tls.certificate, datetime.fromtimestamp(clock.unix_ns() / 1e9, UTC))
    if live.egress.ca_bundle:
        try:
            make_egress(live.egress)
        except SettingUnusable as error:
            yield Finding("authorities", Verdict.BAD, str(error))
        else:
            yield Finding("authorities", Verdict.FINE, live.egress.ca_bundle)


def _validity(path: str, now: datetime) -> Finding:
    certificate = x509.load_pem_x509_certificates(Path(path).read_bytes())[0]
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= end:
        return Finding("tls", Verdict.BAD, f"{path} ended on {end:%Y-%m-%d}: callers refuse it; renew it")
    if now < start:
        return Finding("tls", Verdict.BAD, f"{path} is not valid before {start:%Y-%m-%d}: callers refuse it")
    if now >= end - ENDS_SOON:
        return Finding("tls", Verdict.DOUBTFUL, f"{path} ends on {end:%Y-%m-%d}: renew it")
    return Finding("tls", Verdict.FINE, f"{path}, until {end:%Y-%m-%d}")
