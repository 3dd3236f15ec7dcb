"""Hands what the gateway does not answer itself to the control process, over its Unix socket, and relays the answer.

Who the caller is, we say: whatever it wrote itself into the headers that tell it is taken out. An answer is passed on
as it comes; a caller who reads slowly makes the control process wait, not our memory grow. With the control process
away these paths are 503 at once, and nothing else notices.

Bodies of files are not held: `streamed_bytes_max` says which, and they flow from the caller to the control process as
both sides keep up. The control process knows how large a file may be, and says so when it has seen the head.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from urllib.parse import unquote

from waypost.gateway.handoff_places import Place, Places, kind_of
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal
from waypost.transport.exchange import Exchange
from waypost.transport.http1_client import UNBOUNDED, Call, CallTimeouts, ClientLimits, Pool, Upload
from waypost.transport.http1_response import TransportFailure
from waypost.transport.incoming import Incoming
from waypost.transport.origin import Origin

UPLOAD_BYTES_MAX = 2 << 30  # the most that `files.bytes_max` can say
_ASKED_S = 1.0  # for a control process that says nothing either way: RFC 9110 §10.1.1 wants no long wait
# An execution may be waited for, for a minute, before there is a first byte. In all a file of 150 MiB takes a caller so
# long who is just not too slow; silence ends it much sooner.
_TIMEOUTS = CallTimeouts(connect_s=1.0, first_byte_s=75.0, idle_s=60.0, total_s=7_200.0)
_UPLOAD_PATH = re.compile(rb"/v1/files/[A-Za-z0-9_-]{1,64}/content")
_RETRY_AFTER_S = 2
_BODYLESS = frozenset((204, 304))
_SAFE = frozenset(("GET", "HEAD"))
# RFC 9110 §7.6.1, and those that each side of us writes anew.
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_ABOUT_THE_CALLER = frozenset((b"forwarded", b"x-real-ip", b"x-request-id", b"expect", b"via"))
_OURS = frozenset((b"date", b"x-request-id"))


def streamed_bytes_max(path: bytes) -> int | None:
    """`transport.http1_request.Streams`: a PUT to that path may be so large, and is not held."""
    return UPLOAD_BYTES_MAX if _UPLOAD_PATH.fullmatch(path) is not None else None


def is_oddly_spelled(path: str) -> bool:
    """Whether a path is one of the API's, in other bytes than its own. The control process reads `%65` as `e`: what
    is decided here by the path must be about the path that is answered there, and no path of the API needs escapes."""
    return "%" in path and unquote(path).startswith("/v1")


class HandOff:
    """One control process. `client_of` says whose request it is, `refuse` answers an exchange that gets no answer."""

    def __init__(
        self,
        socket_path: str,
        *,
        is_https: bool,
        client_of: Callable[[Exchange], str],
        refuse: Callable[[Exchange, Refusal, bytes], None],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        """`is_https`: callers reach us by https, over whatever it comes to us."""
        self._pool = Pool(Origin(unix_path=socket_path), limits=ClientLimits(idle_connections=32), on_bug=on_bug)
        self._scheme = b"https" if is_https else b"http"
        self._client_of = client_of
        self._refuse = refuse
        self.places = Places()

    @property
    def in_flight(self) -> int:
        return self.places.taken

    async def close(self) -> None:
        await self._pool.close()

    def relay(self, exchange: Exchange, request_id: bytes, headers: bytes = b"", *, org_id: bytes = b"") -> None:
        """Answer the exchange with what the control process says, and with these header lines. `org_id` is whose key
        came with it, b"" without one."""
        place = Place(kind_of(exchange), org_id or self._client_of(exchange).encode(), bool(org_id))
        try:
            self.places.take(place)
        except Refusal as refusal:
            self._refuse(exchange, refusal, request_id)
            return
        if exchange.incoming is None:
            _Relay(self, exchange, request_id, headers, place).send()
        else:
            _UploadRelay(self, exchange, request_id, headers, place, exchange.incoming).send()

    def leave(self, place: Place) -> None:
        """For a relay that is done."""
        self.places.give_back(place)

    def call(self, relay: _Relay) -> Call:
        """For a relay."""
        exchange = relay.exchange
        target = f"{exchange.path}?{exchange.query}" if exchange.query else exchange.path
        lines = [b"%b %b HTTP/1.1\r\n" % (exchange.method.encode(), target.encode())]
        gone = _named_by_connection(exchange.headers)
        for name, value in exchange.headers.items():
            is_ours = name in _ABOUT_THE_CALLER or name.startswith(b"x-forwarded-")
            if not is_ours and name not in _HOP_BY_HOP and name not in gone:
                lines.append(b"%b: %b\r\n" % (name, value))
        if b"host" not in exchange.headers:
            lines.append(b"host: localhost\r\n")  # HTTP/1.0 may leave it out, and we speak HTTP/1.1
        client = self._client_of(exchange).encode()
        lines.append(b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\n" % (client, self._scheme))
        lines.append(relay.id_line)
        if relay.waits_to_be_asked:
            lines.append(b"expect: 100-continue\r\n")
        return self._pool.call(b"".join(lines), relay.body, relay, _TIMEOUTS, body_bytes_max=UNBOUNDED)

    def refuse(self, exchange: Exchange, request_id: bytes, code: ErrorCode = ErrorCode.SERVICE_UNAVAILABLE) -> None:
        """For a relay: there is no answer."""
        retry_after_s = _RETRY_AFTER_S if code.is_retryable else None
        self._refuse(exchange, Refusal(code, retry_after_s=retry_after_s), request_id)


class _Relay:
    """One exchange handed over; a receiver of the client."""

    __slots__ = (
        *("_call", "_has_head", "_headers", "_is_repeated", "_owner", "_place", "_request_id"),
        *("body", "exchange", "id_line"),
    )

    body: bytes | Upload
    waits_to_be_asked = False

    def __init__(self, owner: HandOff, exchange: Exchange, request_id: bytes, headers: bytes, place: Place) -> None:
        self._owner = owner
        self._place = place
        self._request_id = request_id
        self._call: Call | None = None
        self._has_head = False
        self._is_repeated = False
        self.exchange = exchange
        self.body = exchange.body.unwrap()
        self.id_line = b"x-request-id: %b\r\n" % ids.text("req", request_id).encode()
        self._headers = self.id_line + headers

    def send(self) -> None:
        self._call = self._owner.call(self)
        self.exchange.watcher = self

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._has_head = True
        gone = _named_by_connection(headers)
        lines = b"".join(
            b"%b: %b\r\n" % (name, value)
            for name, value in headers.items()
            if name not in _HOP_BY_HOP and name not in _OURS and name not in gone
        )
        if status in _BODYLESS:
            self.exchange.respond(status, lines + self._headers, b"")
        else:
            length = headers.get(b"content-length")  # a download shows how far it is
            self.exchange.begin(status, lines + self._headers, length=None if length is None else int(length))
            self.exchange.flush_head()

    def on_data(self, data: bytes) -> None:
        self.exchange.write(data)

    def on_end(self) -> None:
        if self._call is not None and self._call.is_close_delimited:
            self.exchange.abort()  # nobody can tell whether it was whole
        elif self.exchange.is_open:
            self.exchange.end()
        self._finish()

    def on_failure(self, failure: TransportFailure) -> None:
        is_untouched = failure is TransportFailure.RESET_REUSED and self.exchange.method in _SAFE
        if is_untouched and not self._is_repeated and not self._has_head:
            self._is_repeated = True
            self.send()
            return
        if self._has_head:
            self.exchange.abort()
        else:
            self._owner.refuse(self.exchange, self._request_id)
        self._finish()

    def leave(self) -> None:
        if self._call is not None:
            self._call.abort()
            self._finish()

    def pause(self) -> None:
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        if self._call is not None:
            self._call.resume()

    def _finish(self) -> None:
        self._owner.leave(self._place)
        self._call = None


class _UploadRelay(_Relay):
    """One whose body flows through: `Consumer` of the caller's side, `Upload` of the control process's."""

    __slots__ = ("_asking", "_incoming", "_upload", "waits_to_be_asked")

    def __init__(
        self,
        owner: HandOff,
        exchange: Exchange,
        request_id: bytes,
        headers: bytes,
        place: Place,
        incoming: Incoming,
    ) -> None:
        super().__init__(owner, exchange, request_id, headers, place)
        self._incoming = incoming
        self._upload: Call | None = None
        self._asking: asyncio.TimerHandle | None = None
        self.body = self
        # Whoever wants to be asked first is asked when the control process asks: it may refuse by the head alone.
        self.waits_to_be_asked = b"expect" in exchange.headers

    @property
    def length(self) -> int | None:
        return self._incoming.length

    def begin(self, call: Call) -> None:
        """The control process is there: let the caller send."""
        self._upload = call
        if self.waits_to_be_asked:
            self._asking = asyncio.get_running_loop().call_later(_ASKED_S, self.on_continue)
        else:
            self._incoming.read(self)

    def on_continue(self) -> None:
        self._stop_waiting()
        if self._upload is not None:
            self._incoming.read(self)

    def on_blocked(self) -> None:
        self._incoming.pause()

    def on_writable(self) -> None:
        self._incoming.resume()

    def on_body(self, data: bytes) -> None:
        if self._upload is not None:
            self._upload.write(data)

    def on_body_end(self) -> None:
        if self._upload is not None:
            self._upload.end()

    def on_body_failed(self, code: ErrorCode) -> None:
        if self._upload is None:
            return
        self._upload.abort()
        if self._has_head:
            self.exchange.abort()
        else:
            self._owner.refuse(self.exchange, self._request_id, code)
        self._finish()

    def _stop_waiting(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _finish(self) -> None:
        super()._finish()
        self._stop_waiting()
        self._upload = None
        self.body = b""  # it holds on to itself


def _named_by_connection(headers: dict[bytes, bytes]) -> frozenset[bytes]:
    """Headers that hold for one connection only, because its `Connection` header says so."""
    named = headers.get(b"connection")
    return frozenset() if named is None else frozenset(name.strip().lower() for name in named.split(b","))
