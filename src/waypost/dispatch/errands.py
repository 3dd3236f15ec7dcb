"""Errands of the worker: single HTTP calls to providers, by the same ways as attempts: a credential of the pool that
is ready, a place at the provider, its connections. What they find tells on the circuits as attempts do.

    not sent (unknown, blocked, full, no connection)  │  sent → answered  │  sent → lost: ambiguous
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from waypost.dispatch.fleet import Credential, Fleet, LiveDeployment
from waypost.ledger.record import LedgerUnavailable
from waypost.policy.circuit import Verdict
from waypost.policy.snapshot import View
from waypost.providers.error_map import retry_after_s
from waypost.providers.kind import Target
from waypost.telemetry.events import RefusedByProvider, emit
from waypost.telemetry.metrics import Counter
from waypost.transport.http1_client import CallTimeouts, TransportFailure
from waypost.transport.whole_answer import NoAnswer, WholeAnswer, ask
from waypost.wire.errand import ANSWER_BYTES_MAX, Ambiguous, Answered, Errand, NotSent, Sent, is_at_origin, kept

EarlierView = Callable[[int], Awaitable[View | None]]
"""Raises LedgerUnavailable; None when there is no such version."""
_REPEATED = frozenset(("GET",))  # on another connection, when a reused one had been closed meanwhile


class Errands:
    """`digest` names a credential without telling it. `earlier_view` gives versions of the catalogue that are no longer
    in force: what is still at a provider is asked for there."""

    def __init__(
        self, fleet: Fleet, *, digest: Callable[[str], str], counted: Counter, earlier_view: EarlierView
    ) -> None:
        self._fleet = fleet
        self._earlier_view = earlier_view
        self._digest = digest
        self._counted = counted
        self._loop = asyncio.get_running_loop()

    async def run(self, errand: Errand) -> Sent:
        """To its end. Cancelled, it is aborted, and nobody can tell what came of it."""
        try:
            live = await self._live(errand)
        except LedgerUnavailable:
            return NotSent("catalogue_unavailable", retry_after_s=2.0)
        if live is None or live.provider.id != errand.provider:
            return NotSent("unknown_deployment")
        if not await self._has_place(live):
            return self._told(live, NotSent("bulkhead_full", retry_after_s=1.0))
        try:
            return self._told(live, await self._in_place(live, errand))
        finally:
            live.gate.release()

    async def _live(self, errand: Errand) -> LiveDeployment | None:
        """Raises LedgerUnavailable."""
        live = self._fleet.deployment(errand.deployment)
        if live is not None or not errand.catalogue_version:
            return live
        view = await self._earlier_view(errand.catalogue_version)
        return None if view is None else self._fleet.earlier(view, errand.deployment)

    def _told(self, live: LiveDeployment, sent: Sent) -> Sent:
        match sent:
            case Answered():
                outcome = f"{sent.status // 100}xx"
            case Ambiguous() | NotSent():
                outcome = sent.reason
        self._counted.add(live.provider.id, live.deployment.id, outcome)
        return sent

    async def _has_place(self, live: LiveDeployment) -> bool:
        """Whether a place at its bulkhead came in time; it is then to be given back."""
        if live.gate.places.take():
            return True
        came = asyncio.Event()
        if not live.gate.wait(came.set):
            return False
        try:
            async with asyncio.timeout(live.gate.places.settings.wait_s):
                await came.wait()
        except BaseException as error:
            if not live.gate.places.leave(came.set):
                live.gate.release()  # it was given to us in this very moment
            if not isinstance(error, TimeoutError):
                raise
            live.gate.refused()
            return False
        return True

    async def _in_place(self, live: LiveDeployment, errand: Errand) -> Sent:
        now_s = self._loop.time()
        credential = self._credential(live, errand, now_s)
        if isinstance(credential, NotSent):
            return credential
        path = _path(errand, live)
        if path is None:
            return NotSent("foreign_url")
        head = _head(errand, path, credential.target)
        live.gate.budget.count(now_s)
        answer = await self._ask(live, errand, head, credential)
        digest = self._digest(credential.target.credential)
        if isinstance(answer, WholeAnswer):
            self._look_at(live, credential, answer)
            return Answered(answer.status, kept(answer.headers), answer.body, digest)
        reason = answer.failure.name.lower()
        if not answer.is_sent:
            return NotSent(reason)
        return Ambiguous(reason, answer.status, digest)

    async def _ask(
        self, live: LiveDeployment, errand: Errand, head: bytes, credential: Credential
    ) -> WholeAnswer | NoAnswer:
        health = credential.health
        permit = health.begin(self._loop.time())
        verdict = Verdict.NOTHING
        connect_s = min(live.provider.timeouts.connect_s, errand.timeout_s)
        timeouts = CallTimeouts(
            connect_s=connect_s, first_byte_s=None, idle_s=errand.timeout_s, total_s=errand.timeout_s
        )
        try:
            answer = await ask(live.pool, head, errand.body, timeouts, body_bytes_max=ANSWER_BYTES_MAX)
            if _was_closed(answer) and errand.method in _REPEATED:
                answer = await ask(live.pool, head, errand.body, timeouts, body_bytes_max=ANSWER_BYTES_MAX)
            verdict = _verdict(answer)
        finally:
            health.end(permit, verdict, self._loop.time())
        return answer

    def _credential(self, live: LiveDeployment, errand: Errand, now_s: float) -> Credential | NotSent:
        """The one that is asked for, or the next in turn. None of last resort: an errand can wait, as no caller can."""
        credential = live.credential(now_s)
        if errand.credential:
            named = [each for each in live.credentials if self._digest(each.target.credential) == errand.credential]
            if not named:
                return NotSent("no_credential")
            credential = named[0]
        health = credential.health
        if health.is_ready(now_s):
            return credential
        reason = "resting" if health.rests_until_s > now_s else "circuit_open"
        return NotSent(reason, retry_after_s=round(max(0.1, health.wait_s(now_s)), 1))

    def _look_at(self, live: LiveDeployment, credential: Credential, answer: WholeAnswer) -> None:
        """As after an attempt: what the provider limits or refuses to a credential rests it."""
        if answer.status not in (401, 403, 429):
            return
        credential.health.rest(self._loop.time(), retry_after_s(answer.headers))
        if answer.status != 429:
            emit(RefusedByProvider(provider=live.provider.id, deployment=live.deployment.id, refused="credential"))


def _was_closed(answer: WholeAnswer | NoAnswer) -> bool:
    return isinstance(answer, NoAnswer) and answer.failure is TransportFailure.RESET_REUSED


def _verdict(answer: WholeAnswer | NoAnswer) -> Verdict:
    """`policy.circuit.verdict_of`, of an answer that nobody has read."""
    if isinstance(answer, NoAnswer) or answer.status >= 500:
        return Verdict.FAILURE
    return Verdict.NOTHING if answer.status >= 400 else Verdict.SUCCESS


def _path(errand: Errand, live: LiveDeployment) -> str | None:
    """What to ask for; None for a URL of somebody else's, who would be given the credential."""
    if errand.url.startswith("/") and not errand.url.startswith("//"):
        return errand.url
    base = urlsplit(live.provider.base_url)
    origin = f"{base.scheme}://{base.netloc}"
    if not is_at_origin(errand.url, (origin,)):
        return None
    rest = errand.url[len(origin) :]
    return rest if rest.startswith("/") else f"/{rest}"


def _head(errand: Errand, path: str, target: Target) -> bytes:
    lines = [f"{errand.method} {path} HTTP/1.1", f"host: {target.host_header.decode()}"]
    if target.credential:
        scheme = "" if target.credential_header else errand.credential_scheme
        shown = f"{scheme} {target.credential}" if scheme else target.credential
        lines.append(f"{target.credential_header or 'authorization'}: {shown}")
    lines += ["accept-encoding: identity", "user-agent: waypost"]
    given = {name.lower() for name, _ in errand.headers}
    lines += [f"{name}: {value}" for name, value in errand.headers]
    lines += [f"{name}: {value}" for name, value in target.headers if name.lower() not in given]
    return "".join([f"{line}\r\n" for line in lines]).encode("ascii")
