"""`POST /v1/callbacks/{provider}/{execution}/{attempt}/{token}`: a provider says that a job has changed.

The address itself is checked first; a wrong one is 404 before anything is read or looked up. What is genuine is never
refused for its number: limits are for addresses that are not ours, and for what lacks its provider's signature. It is
recorded without its body and answered, and a queued job asks the provider how things are: a callback changes nothing by
itself.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from waypost.control.answers import answer, read_bytes
from waypost.executions.callback_address import CallbackAddresses
from waypost.kit import ids
from waypost.kit.clock import Clock
from waypost.kit.errors import ErrorCode, Refusal
from waypost.policy.catalogue import Provider
from waypost.policy.rate_limit import Window
from waypost.policy.snapshot import View
from waypost.providers import JOB_KINDS
from waypost.providers.job import CallbackKeys, JobTarget, Signature
from waypost.providers.job_signature import read_key_set
from waypost.storage.pool import Pool
from waypost.storage.provider_callbacks import ProviderCallback, forget_callbacks, record_callback
from waypost.telemetry.metrics import Counter, Page

BODY_BYTES_MAX = 1_048_576
PER_MINUTE = 600  # of one provider, that are not signed by it though it signs
WRONG_PER_MINUTE = 600  # addresses that we did not make, of all providers together
ATTEMPT_MAX = 255
_ATTEMPT = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
KEYS_FRESH_S = 6 * 3_600.0  # fal asks for at most a day
KEYS_AGAIN_S = 60.0  # between tries to load them

ReadSecret = Callable[[str], str]
"""`env:NAME` or `file:PATH` → the secret. Raises LookupError."""
Fetch = Callable[[str], Awaitable[bytes]]
"""A small document at a URL. Raises OSError when there is none."""


class KeySets:
    """Public keys of providers by their URL, loaded beside the requests that need them: until they are here nothing can
    be verified, and what cannot be verified is a hint all the same."""

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, tuple[bytes, ...]] = {}
        self._due_s: dict[str, float] = {}
        self._loading: set[asyncio.Task[None]] = set()

    def keys(self, url: str) -> tuple[bytes, ...]:
        now_s = self._clock.monotonic_s()
        if self._due_s.get(url, now_s) <= now_s:
            self._due_s[url] = now_s + KEYS_AGAIN_S
            task = asyncio.ensure_future(self._load(url))
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)
        return self._keys.get(url, ())

    def renew(self, url: str) -> None:
        """A signature did not fit: the keys may be others by now. At most once in `KEYS_AGAIN_S`."""
        if self._due_s.get(url, 0.0) > self._clock.monotonic_s() + KEYS_AGAIN_S:
            self._due_s[url] = self._clock.monotonic_s()

    async def _load(self, url: str) -> None:
        try:
            keys = read_key_set(await self._fetch(url))
        except OSError:
            return
        if keys:
            self._keys[url] = keys
            self._due_s[url] = self._clock.monotonic_s() + KEYS_FRESH_S


class Callbacks:
    """One process's. `pool` is the app's."""

    def __init__(
        self,
        *,
        pool: Pool,
        view: Callable[[], View],
        addresses: CallbackAddresses,
        read_secret: ReadSecret,
        key_sets: KeySets,
        clock: Clock,
        page: Page | None = None,
    ) -> None:
        self._pool = pool
        self._view = view
        self.addresses = addresses
        self._read_secret = read_secret
        self._key_sets = key_sets
        self._clock = clock
        self._windows: dict[str, Window] = {}
        self._wrong = Window(WRONG_PER_MINUTE)
        self._counted = Counter("", "", ("provider", "outcome"))
        if page is not None:
            self._counted = page.counter(
                "waypost_provider_callbacks", "Callbacks of providers of jobs.", ("provider", "outcome")
            )

    async def hear(self, request: Request) -> Response:
        """204. Raises Refusal: 404, 413, 429."""
        provider, execution_id, attempt = self._addressed(request.path_params)
        body = await read_bytes(request, BODY_BYTES_MAX)
        headers = {name.lower(): value for name, value in request.headers.items()}
        kind, target = JOB_KINDS[provider.kind], _target(provider)
        signature = kind.verify(headers, body, self._keys_of(provider), self._now_s(), target)
        if signature is Signature.INVALID and provider.jobs.keys_url:
            self._key_sets.renew(provider.jobs.keys_url)
        is_believed = _is_believed(provider, signature)
        if not is_believed:
            _take(self._windows.setdefault(provider.id, Window(PER_MINUTE)), self._clock.monotonic_s())
        said = kind.read_callback(headers, body, target)
        callback = ProviderCallback(
            provider=provider.id,
            event_key=self.addresses.event_key(provider.id, execution_id, attempt, said.event_id.encode() or body),
            execution_id=execution_id,
            attempt=attempt,
            received_at=datetime.fromtimestamp(self._clock.unix_ns() / 1e9, UTC),
            size_bytes=len(body),
            signature=signature.value,
        )
        is_new = await record_callback(self._pool, callback, job_id=said.job_id, is_believed=is_believed)
        self._counted.add(provider.id, signature.value if is_new else "repeated")
        return answer(None, status=204)

    async def forget(self) -> None:
        """What is older than 90 days: a job of the queue."""
        await forget_callbacks(self._pool, datetime.fromtimestamp(self._clock.unix_ns() / 1e9, UTC))

    def _addressed(self, named: dict[str, str]) -> tuple[Provider, bytes, int]:
        """Raises Refusal 404 for an address that we did not make: nobody but we can make one."""
        provider_id, attempt, token = named["provider"], named["attempt"], named["token"]
        try:
            execution_id = ids.parse("exec", named["execution"])
            number = int(attempt) if _ATTEMPT.fullmatch(attempt) else 0
        except ValueError:
            execution_id, number = b"", 0
        is_ours = execution_id and 1 <= number <= ATTEMPT_MAX and token.isascii()
        if not is_ours or not self.addresses.is_token(token, provider_id, execution_id, number):
            _take(self._wrong, self._clock.monotonic_s())
            raise Refusal(ErrorCode.NOT_FOUND)
        provider = self._provider(provider_id)
        if provider is None:
            raise Refusal(ErrorCode.NOT_FOUND)  # one that the catalogue does not have any more
        return provider, execution_id, number

    def _provider(self, provider_id: str) -> Provider | None:
        for model in self._view().models:
            for route in model.routes:
                if route.provider.id == provider_id and route.provider.kind in JOB_KINDS:
                    return route.provider
        return None

    def _keys_of(self, provider: Provider) -> CallbackKeys:
        secrets = []
        for reference in provider.jobs.webhook_secrets:
            try:
                secrets.append(self._read_secret(reference))
            except LookupError:
                continue  # doctor tells of it; without it nothing is verified
        url = provider.jobs.keys_url
        return CallbackKeys(tuple(secrets), self._key_sets.keys(url) if url else ())

    def _now_s(self) -> int:
        return self._clock.unix_ns() // 1_000_000_000


def routes(callbacks: Callbacks) -> list[Route]:
    return [Route("/v1/callbacks/{provider}/{execution}/{attempt}/{token}", callbacks.hear, methods=["POST"])]


def _is_believed(provider: Provider, signature: Signature) -> bool:
    """Whether the job that it names is the provider's word. Where its provider signs nothing, knowing the address is
    all that there is."""
    described = provider.jobs.description
    return signature is Signature.VALID or (described is not None and not described.signature_header)


def _target(provider: Provider) -> JobTarget:
    return JobTarget(provider.id, "", "", description=provider.jobs.description)


def _take(window: Window, now_s: float) -> None:
    """Raises Refusal 429."""
    decision = window.take(now_s)
    if not decision.is_allowed:
        raise Refusal(ErrorCode.RATE_LIMITED, retry_after_s=max(1, int(decision.reset_s) + 1))
