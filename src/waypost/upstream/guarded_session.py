"""HTTP calls that go where `upstream.guard` lets them, and nowhere else.

    CallFailed        no answer that can be used; `failure` says of which kind
      └ Failure       FORBIDDEN before a connection, the others of a connection

The guard stands at the sockets: `_Gate` is asked for every socket, with the address that it will be connected to, so
that neither a second answer of a name server nor anything between the look-up and the connection leads past it.
Redirects are answers like any other, proxies of the environment are not asked, cookies are not kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from ipaddress import ip_address
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from waypost.upstream.guard import Address, Allowed, Target, UrlForbidden, read_url

LOOKUPS_MAX = 64  # at once; a name server that does not answer holds a thread for as long as the system tries
LOOKUP_S = 5.0
CONNECTIONS_MAX = 1024
_VOUCHED_MAX = 4096
_PART_BYTES = 64 * 1024

Lookup = Callable[[str, int], Awaitable[Sequence[Address]]]


class Failure(Enum):
    """Why a call has no answer."""

    FORBIDDEN = "forbidden"  # the URL, or every address that its name has
    UNKNOWN_HOST = "unknown_host"
    REFUSED = "refused"  # no connection
    TLS = "tls"  # the certificate is not one that we trust, or there is no TLS
    TIMEOUT = "timeout"
    BROKEN = "broken"  # the connection ended, or what came is not HTTP
    TOO_LARGE = "too_large"


class CallFailed(Exception):
    """There is no answer. The text is the failure's name: what a stranger's server says goes nowhere."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.value)
        self.failure = failure


class AddressForbidden(OSError):
    """No address of the name may be reached."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """`connect_s` for the connection with its TLS, `idle_s` between two reads, `total_s` for everything; the answer's
    body has at most `answer_bytes` bytes."""

    connect_s: float = 5.0
    idle_s: float = 30.0
    total_s: float = 30.0
    answer_bytes: int = 64 * 1024


class Answer(msgspec.Struct, frozen=True):
    """`headers` by their names in small letters; of several of one name, the first."""

    status: int
    headers: dict[str, str]
    body: bytes


class Incoming:
    """An answer whose body is still to be read."""

    def __init__(self, response: aiohttp.ClientResponse, bounds: Bounds) -> None:
        self._response = response
        self._bounds = bounds
        self.status = response.status
        self.headers = {name.lower(): value for name, value in reversed(list(response.headers.items()))}

    async def parts(self) -> AsyncIterator[bytes]:
        """The body, as it comes. Raises CallFailed, TOO_LARGE as soon as it is known to be."""
        told = self._response.content_length
        if told is not None and told > self._bounds.answer_bytes:
            raise CallFailed(Failure.TOO_LARGE)
        size = 0
        with _failures_told():
            async for part in self._response.content.iter_chunked(_PART_BYTES):
                size += len(part)
                if size > self._bounds.answer_bytes:
                    raise CallFailed(Failure.TOO_LARGE)
                yield part


class GuardedSession:
    """Connections of one process to strangers' servers. For one event loop.

    `ssl_context` verifies (`transport.tls.client_context`). `lookup` is the system's resolver unless given.
    """

    def __init__(self, allowed: Allowed, ssl_context: ssl.SSLContext, *, lookup: Lookup | None = None) -> None:
        self._ssl_context = ssl_context
        self._threads = ThreadPoolExecutor(LOOKUPS_MAX, thread_name_prefix="lookup")
        self._gate = _Gate(allowed, lookup or self._look_up)
        self._session: aiohttp.ClientSession | None = None  # made in the loop that calls

    def use(self, allowed: Allowed, ssl_context: ssl.SSLContext) -> None:
        """Other rules and authorities, for every call that begins from now on."""
        self._ssl_context = ssl_context
        self._gate.use(allowed)

    @property
    def allowed(self) -> Allowed:
        """What is exempt at the moment."""
        return self._gate.allowed

    async def send(
        self, method: str, url: str, *, bounds: Bounds, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """The whole answer, whatever its status. Raises CallFailed."""
        async with self.open(method, url, bounds=bounds, headers=headers, body=body) as incoming:
            parts = [part async for part in incoming.parts()]
        return Answer(incoming.status, incoming.headers, b"".join(parts))

    @contextlib.asynccontextmanager
    async def open(
        self, method: str, url: str, *, bounds: Bounds, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> AsyncIterator[Incoming]:
        """An answer whose body is read part by part. Raises CallFailed; what is not read is hung up on."""
        target = self._target(url)
        timeout = aiohttp.ClientTimeout(
            total=bounds.total_s, sock_connect=bounds.connect_s, sock_read=min(bounds.idle_s, bounds.total_s)
        )
        given = {"accept-encoding": "identity", **(headers or {})}
        with _failures_told():
            response = await self._open_session().request(
                method,
                URL(target.url, encoded=True),
                headers=given,
                data=body or None,
                allow_redirects=False,
                timeout=timeout,
                ssl=self._ssl_context,
                skip_auto_headers=("user-agent", "accept"),
            )
        try:
            yield Incoming(response, bounds)
        finally:
            response.close()

    async def close(self) -> None:
        """Hang up on everybody."""
        if self._session is not None:
            await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=self._gate,
                socket_factory=self._gate.open_socket,
                use_dns_cache=False,
                limit=CONNECTIONS_MAX,
                # Each call asks for the name anew, and none meets a connection that its server has just given up.
                force_close=True,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,  # what is asked for is not encoded
                raise_for_status=False,
            )
        return self._session

    def _target(self, url: str) -> Target:
        try:
            return read_url(url, self.allowed)
        except UrlForbidden:
            raise CallFailed(Failure.FORBIDDEN) from None

    async def _look_up(self, host: str, port: int) -> Sequence[Address]:
        # Threads of its own: a name that takes long to answer would keep the process's common ones from other work.
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [ip_address(place[0]) for *_, place in found]


class _Gate(AbstractResolver):
    """Lets names lead, and sockets be connected, only where they may."""

    def __init__(self, allowed: Allowed, lookup: Lookup) -> None:
        self.allowed = allowed
        self._lookup = lookup
        # Where names lead that are exempt themselves: of a socket only the address is known. Another name that leads
        # there is stopped at its look-up, an address in a URL by `read_url`.
        self._vouched: set[tuple[str, int]] = set()

    def use(self, allowed: Allowed) -> None:
        self.allowed = allowed
        self._vouched.clear()

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[ResolveResult]:
        assert family == socket.AF_UNSPEC, "the connector asks for every kind of address"
        async with asyncio.timeout(LOOKUP_S):
            found = await self._lookup(host, port)
        is_exempt = self.allowed.names(host, port)
        reached = [each for each in found if is_exempt or self.allowed.may_reach(each)]
        if not reached:
            raise AddressForbidden if found else socket.gaierror(socket.EAI_NONAME, "no address")
        if is_exempt:
            if len(self._vouched) >= _VOUCHED_MAX:
                self._vouched.clear()
            self._vouched.update((str(each), port) for each in reached)
        return [_resolved(host, each, port) for each in reached]

    async def close(self) -> None:
        pass

    def open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """A socket for the very address in `info`. Raises AddressForbidden."""
        family, kind, protocol, _, place = info
        address = ip_address(place[0])
        host, port = str(address), place[1]
        is_exempt = (host, port) in self._vouched or self.allowed.names(host, port)
        if not (is_exempt or self.allowed.may_reach(address)):
            raise AddressForbidden
        return socket.socket(family=family, type=kind, proto=protocol)


def _resolved(host: str, address: Address, port: int) -> ResolveResult:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=str(address), port=port, family=family, proto=0, flags=numeric)


@contextlib.contextmanager
def _failures_told() -> Iterator[None]:
    """Turns what the client library raises into CallFailed."""
    try:
        yield
    except TimeoutError:
        raise CallFailed(Failure.TIMEOUT) from None
    except (aiohttp.ClientSSLError, ssl.SSLError):
        raise CallFailed(Failure.TLS) from None
    except aiohttp.ClientConnectorDNSError as error:
        is_forbidden = isinstance(error.os_error, AddressForbidden)
        raise CallFailed(Failure.FORBIDDEN if is_forbidden else Failure.UNKNOWN_HOST) from None
    except aiohttp.ClientConnectorError as error:
        is_forbidden = isinstance(error.os_error, AddressForbidden)
        raise CallFailed(Failure.FORBIDDEN if is_forbidden else Failure.REFUSED) from None
    except (aiohttp.ClientError, OSError, ValueError):
        raise CallFailed(Failure.BROKEN) from None
