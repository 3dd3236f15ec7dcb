"""The public port of a gateway: where it listens, in front of what, and what of that changes while it serves."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from waypost.app.live_settings import EgressSettings, LiveSettings
from waypost.dispatch.egress import Egress
from waypost.gateway.cross_origin import CrossOrigin
from waypost.gateway.endpoints import takes_images
from waypost.gateway.handoff import UPLOAD_BYTES_MAX, HandOff, streamed_bytes_max
from waypost.gateway.pipeline import Gateway
from waypost.kit.errors import ErrorCode
from waypost.policy.address import TrustedProxies
from waypost.transport.http1_server import Http1Server, ServerLimits
from waypost.transport.tls import ServerTls, client_context


class SettingUnusable(Exception):
    """What a setting names cannot be used. The message is a sentence for the operator."""


class Front:
    """`server` listens when it is told to. `adopt` may be called again and again."""

    def __init__(
        self,
        gateway: Gateway,
        refuse: Callable[[ErrorCode, str], tuple[bytes, bytes]],
        *,
        on_bug: Callable[[BaseException], None],
        control_socket: str = "",
    ) -> None:
        """`refuse` as the server's, given what to say where that is better than the code's own sentence.
        `control_socket` is the one of the control process when the settings name none."""
        self._gateway = gateway
        self._control_socket = control_socket
        self._on_bug = on_bug
        self._tls = ServerTls()
        self._handoffs: dict[tuple[str, bool], HandOff] = {}  # also those that the settings no longer name
        self._limits = ServerLimits()
        self._is_cross_origin = False
        gateway.pressure.on_shedding = self._shed_early
        self.server = Http1Server(
            gateway.handle,
            lambda code: refuse(code, self._told(code)),
            on_bug=on_bug,
            streams=streamed_bytes_max,
            takes_images=takes_images,
        )

    def adopt(self, live: LiveSettings) -> None:
        """Serve by these from now on. Raises TlsFilesUnusable: then nothing has changed."""
        if live.tls is not None:
            self._tls.load(live.tls.certificate, live.tls.private_key)
        gateway, proxies = self._gateway, TrustedProxies(live.trusted_proxies)
        gateway.trusted_proxies = proxies
        gateway.handoff = self._handoff(live)
        gateway.text_bytes_max = live.limits.body_bytes
        self._is_cross_origin = bool(live.cors_origins)
        self._shed_early(gateway.pressure.shedding.is_active)
        handler = CrossOrigin(live.cors_origins, gateway.handle).handle if live.cors_origins else gateway.handle
        self._limits = live.limits
        self.server.use(handler, live.limits, proxies.__contains__)

    def _shed_early(self, is_shedding: bool) -> None:
        # To whom other sites' scripts belong the headers of a request tell, and each answer says so.
        is_early = is_shedding and not self._is_cross_origin
        self.server.answer_early(self._gateway.early.answer if is_early else None)

    def _told(self, code: ErrorCode) -> str:
        """Of what is too large, how large it may be."""
        limits = self._limits
        if code is ErrorCode.PAYLOAD_TOO_LARGE:
            of_images = f"with images in it {max(limits.body_bytes, limits.image_body_bytes):,}"
            of_upload = f"that of an upload {UPLOAD_BYTES_MAX:,}"
            return f"{code.message} It may have {limits.body_bytes:,} bytes, {of_images}, and {of_upload}."
        if code is ErrorCode.HEADERS_TOO_LARGE:
            of_line = f"A line may have {limits.line_bytes:,} bytes"
            return f"{code.message} {of_line}, and all headers together {limits.header_bytes:,}."
        return ""

    def _handoff(self, live: LiveSettings) -> HandOff | None:
        socket_path = live.control_socket or self._control_socket
        if not socket_path:
            return None
        named = (socket_path, live.tls_mode != "none")
        handoff = self._handoffs.get(named)
        if handoff is None:
            handoff = self._handoffs[named] = HandOff(
                socket_path,
                is_https=live.tls_mode != "none",
                client_of=self._gateway.client_of,
                refuse=self._gateway.refuse,
                on_bug=self._on_bug,
            )
        return handoff

    async def close(self) -> None:
        """When the server has drained."""
        for handoff in self._handoffs.values():
            await handoff.close()

    def ssl_context(self, live: LiveSettings) -> ssl.SSLContext | None:
        """What to listen with."""
        return self._tls.context if live.tls is not None else None


def make_egress(settings: EgressSettings) -> Egress:
    """Raises SettingUnusable when the authorities cannot be read."""
    context = None
    if settings.ca_bundle:
        try:
            context = client_context(ca_bundle=settings.ca_bundle)
        except (OSError, ssl.SSLError):
            raise SettingUnusable(
                f"egress.ca_bundle: {settings.ca_bundle} cannot be read as PEM certificates"
            ) from None
    return Egress(ssl_context=context, proxy=settings.proxy, proxy_except=settings.proxy_except)
