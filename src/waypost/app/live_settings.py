"""`[server]`, `[egress]` and `[webhooks]`, as far as they can change while a gateway serves."""

from __future__ import annotations

import base64
import ipaddress
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from waypost.gateway.allowance import IN_FLIGHT
from waypost.kit.values import replace
from waypost.policy.table import Table
from waypost.storage.webhooks import ENDPOINTS_CEILING
from waypost.transport.limits import ServerLimits
from waypost.transport.tunnel import Proxy
from waypost.upstream.guard import Allowed
from waypost.webhooks.schedule import Schedule

DRAIN_S = 30.0
DRAIN_S_MAX = 600.0
IN_FLIGHT_MAX = 10_000_000  # in effect no bound
TERMINATED = "terminated"
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_MIB = 1024 * 1024
_LIMIT_BOUNDS: dict[str, tuple[float, float]] = {
    # Below the least, ordinary requests would fail; above the most, one caller could take the process.
    "header_bytes": (4096, 256 * 1024),
    "header_count": (16, 1024),
    "line_bytes": (1024, 64 * 1024),
    "body_bytes": (1024, 256 * _MIB),
    "image_body_bytes": (1024, 256 * _MIB),
    "buffered_bytes": (_MIB, 16 * 1024 * _MIB),
    "pipelined_requests": (1, 1024),
    "head_s": (1, 120),
    "body_s": (1, 3600),
    "body_grace_s": (0.1, 600),
    "body_bytes_per_s": (1, 100 * _MIB),
    "keep_alive_s": (1, 3600),
    "write_high_water_bytes": (4096, 16 * _MIB),
    "stalled_reader_s": (1, 3600),
    "linger_s": (0, 60),
    "linger_bytes": (0, 16 * _MIB),
}


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files: the certificate chain, and its private key."""

    certificate: str
    private_key: str


class EgressSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How providers are reached. `proxy` is not asked for hosts in `proxy_except` and for loopback addresses. `allow`
    is what URLs of customers and providers may lead to although it is not on the public internet."""

    ca_bundle: str = ""
    proxy: Proxy | None = None
    proxy_except: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()  # as upstream.guard.Allowed.of takes them


API_KEYS_MAX = 20  # ModelRoute's number


class WebhookLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`retry_s` are the pauses after the first attempt and each that follows; a delivery is given up when they are
    used up, or after `expires_s`."""

    endpoints_max: int = 20  # that an organisation may have
    retry_s: tuple[float, ...] = Schedule().retry_s
    expires_s: float = Schedule().expires_s
    kept_days: int = 30  # what has been delivered or given up


class LiveSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a running gateway takes over when the file changes."""

    public_url: str | None = None
    drain_s: float = DRAIN_S
    tls: TlsFiles | None = None
    is_tls_terminated: bool = False  # a proxy in front of us speaks TLS
    trusted_proxies: tuple[str, ...] = ()  # networks as ipaddress writes them
    organisation_in_flight: int = IN_FLIGHT
    key_in_flight: int = IN_FLIGHT
    cors_origins: tuple[str, ...] = ()
    control_socket: str = ""  # of the control process; "": that of `up`, or none
    api_keys_max: int = API_KEYS_MAX  # valid ones that an organisation may have by its own making
    limits: ServerLimits = ServerLimits()
    webhooks: WebhookLimits = WebhookLimits()
    egress: EgressSettings = EgressSettings()

    @property
    def tls_mode(self) -> str:
        """What cannot change while we listen."""
        return "files" if self.tls is not None else TERMINATED if self.is_tls_terminated else "none"

    def with_tls_of(self, other: LiveSettings) -> LiveSettings:
        """These, but for what a socket was opened with."""
        return replace(self, tls=other.tls, is_tls_terminated=other.is_tls_terminated)

    def shown(self) -> list[tuple[str, str]]:
        """Name and value of each setting that an operator would look for, without secrets."""
        tls = self.tls_mode if self.tls is None else f"{self.tls.certificate}, {self.tls.private_key}"
        proxy = self.egress.proxy
        return [
            ("public_url", self.public_url or "none"),
            ("tls", tls),
            ("drain_s", f"{self.drain_s:g}"),
            ("trusted_proxies", ", ".join(self.trusted_proxies) or "none"),
            ("organisation_in_flight", str(self.organisation_in_flight)),
            ("key_in_flight", str(self.key_in_flight)),
            ("cors_origins", ", ".join(self.cors_origins) or "none"),
            ("control_socket", self.control_socket or "as `up` says"),
            ("api_keys_max", str(self.api_keys_max)),
            ("webhooks.endpoints_max", str(self.webhooks.endpoints_max)),
            ("webhooks.retry_s", ", ".join(f"{each:g}" for each in self.webhooks.retry_s) or "none"),
            ("webhooks.expires_s", f"{self.webhooks.expires_s:g}"),
            ("webhooks.kept_days", str(self.webhooks.kept_days)),
            ("egress.ca_bundle", self.egress.ca_bundle or "the system's"),
            ("egress.proxy", "none" if proxy is None else f"{proxy.host}:{proxy.port}"),
            ("egress.allow", ", ".join(self.egress.allow) or "none"),
        ]


def read_live(server: Table, egress: Table, webhooks: Table, directory: Path) -> LiveSettings:
    """Read them; mistakes are noted in the tables. Paths are taken from `directory`, where the file stands."""
    return LiveSettings(
        public_url=_read_public_url(server),
        drain_s=server.number("drain_s", DRAIN_S, least=0, most=DRAIN_S_MAX),
        tls=_read_tls(server, directory),
        is_tls_terminated=server.raw("tls") == TERMINATED,
        trusted_proxies=_read_networks(server),
        organisation_in_flight=server.integer("organisation_in_flight", IN_FLIGHT, least=1, most=IN_FLIGHT_MAX),
        key_in_flight=server.integer("key_in_flight", IN_FLIGHT, least=1, most=IN_FLIGHT_MAX),
        cors_origins=_read_origins(server),
        control_socket=_path(server.text("control_socket", ""), directory),
        api_keys_max=server.integer("api_keys_max", API_KEYS_MAX, least=1, most=1_000_000),
        limits=_read_limits(server.table("limits")),
        webhooks=_read_webhooks(webhooks),
        egress=_read_egress(egress, directory),
    )


def _read_public_url(table: Table) -> str | None:
    hint = 'an address such as "https://ai.example.org"'
    text = table.text("public_url", "", hint=hint)
    if not text:
        return None
    try:
        parts = urlsplit(text)
        is_bare = parts.username is None and not parts.query and not parts.fragment and parts.port != 0
    except ValueError:
        is_bare = False
    if not is_bare or parts.scheme not in ("http", "https") or not parts.hostname:
        table.note("public_url", f"expected {hint}")
    return text.rstrip("/")


def _read_tls(server: Table, directory: Path) -> TlsFiles | None:
    value = server.raw("tls")
    if value is None or value == TERMINATED:
        return None
    if not isinstance(value, dict):
        server.note("tls", f'expected {{ cert = "…", key = "…" }}, or "{TERMINATED}" behind a proxy')
        return None
    table = server.table("tls")
    files = [_path(table.text(name, hint="the path of a PEM file"), directory) for name in ("cert", "key")]
    table.close()
    return TlsFiles(*files)


def _read_networks(server: Table) -> tuple[str, ...]:
    networks = []
    for i, text in enumerate(server.texts("trusted_proxies", hint="an address or a network")):
        try:
            networks.append(str(ipaddress.ip_network(text)))
        except ValueError:
            hint = 'expected an address or a network such as "10.0.0.0/8", without bits set behind its mask'
            server.mistakes.append(f"{server.at('trusted_proxies')}[{i}]: {hint}")
    return tuple(networks)


def _read_origins(server: Table) -> tuple[str, ...]:
    hint = 'an origin such as "https://app.example.org": in small letters, no path, each named (no *)'
    return server.texts("cors_origins", form=_ORIGIN, hint=hint)


def _read_limits(table: Table) -> ServerLimits:
    defaults = msgspec.structs.asdict(ServerLimits())
    values: dict[str, float] = {}
    for name, (least, most) in _LIMIT_BOUNDS.items():
        default = defaults[name]
        if isinstance(default, int):
            values[name] = table.integer(name, default, least=int(least), most=int(most))
        else:
            values[name] = table.number(name, default, least=least, most=most)
    table.close()
    return msgspec.convert(values, ServerLimits)


def _read_webhooks(table: Table) -> WebhookLimits:
    own = WebhookLimits()
    found = WebhookLimits(
        endpoints_max=table.integer("endpoints_max", own.endpoints_max, least=1, most=ENDPOINTS_CEILING),
        retry_s=table.numbers("retry_s", own.retry_s, least=0.1, most=86_400, count_max=20),
        expires_s=table.number("expires_s", own.expires_s, least=60, most=30 * 86_400),
        kept_days=table.integer("kept_days", own.kept_days, least=1, most=30),
    )
    table.close()
    return found


def _read_egress(egress: Table, directory: Path) -> EgressSettings:
    return EgressSettings(
        ca_bundle=_path(egress.text("ca_bundle", ""), directory),
        proxy=_read_proxy(egress),
        proxy_except=egress.texts("proxy_except", form=_HOST, hint="a host name or an address"),
        allow=_read_allow(egress),
    )


def _read_allow(egress: Table) -> tuple[str, ...]:
    entries = egress.texts("allow", hint="a string")
    for i, entry in enumerate(entries):
        try:
            Allowed.of([entry])
        except ValueError:
            hint = 'expected a host, host:port, or a network such as "10.0.0.0/8"'
            egress.mistakes.append(f"{egress.at('allow')}[{i}]: {hint}")
    return entries


def _read_proxy(egress: Table) -> Proxy | None:
    hint = 'an address such as "http://proxy.example.org:3128"'
    text = egress.text("proxy", "", hint=hint)
    if not text:
        return None
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        is_bare = parts.path in ("", "/") and not parts.query and not parts.fragment
    except ValueError:
        host, port, is_bare = None, None, False
    if host is None or not port or not is_bare or parts.scheme != "http":
        egress.note("proxy", f"expected {hint}, with its port")
        return None
    authorization = b""
    if parts.username is not None:
        words = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = b"Basic " + base64.b64encode(words)
    return Proxy(host, port, authorization)


def _path(text: str, directory: Path) -> str:
    return str((directory / Path(text).expanduser()).absolute()) if text else ""
