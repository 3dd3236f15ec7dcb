"""Providers of jobs as the worker speaks to them: who may take a job, what they are asked, what their answers mean.
Everything goes through a gateway's errand, since only gateways have credentials.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

import msgspec

from waypost.executions.callback_address import CallbackAddresses
from waypost.executions.provider_job import Next, after_refusal
from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.policy.catalogue import Deployment, Provider
from waypost.policy.snapshot import Route
from waypost.providers import JOB_KINDS
from waypost.providers.job import Job, JobAnswer, JobCall, JobKind, JobState, JobTarget, Submission
from waypost.providers.kind import BadAnswer, UpstreamError
from waypost.storage.asynchronous_rows import AsynchronousExecution
from waypost.wire.errand import Ambiguous, Answered, Errand, NotSent, Sent
from waypost.worker.job_places import JobPlaces

SUBMIT_S = 30.0  # for the answer to a submission; then nobody knows
ASK_S = 15.0

Send = Callable[[Errand], Awaitable[Sent]]


class Submitted(msgspec.Struct, frozen=True):
    """What a submission came to."""

    next: Next
    job: Job | None = None  # when it was ACCEPTED
    code: ErrorCode = ErrorCode.MODEL_UNAVAILABLE  # when it was not
    retry_after_s: float | None = None
    credential: bytes | None = None


class Unsent(msgspec.Struct, frozen=True):
    """The provider has certainly not received it."""

    retry_after_s: float | None = None


class Unheard(msgspec.Struct, frozen=True):
    """How the job is cannot be told now."""

    retry_after_s: float = 0.0  # before that there is no use in asking


class Seat(msgspec.Struct, frozen=True):
    """A provider that may take, or has, a job of an execution."""

    provider: Provider
    deployment: Deployment
    kind: JobKind
    target: JobTarget
    version: int  # of the catalogue that has it
    is_in_force: bool = True


class JobDesk:
    """One process's. `dice` gives 0 … 1."""

    def __init__(
        self, *, places: JobPlaces, send: Send, addresses: CallbackAddresses, dice: Callable[[], float]
    ) -> None:
        self._places = places
        self._send = send
        self.addresses = addresses
        self._dice = dice

    def choose(self, model: str, without: Collection[str]) -> Seat | None:
        """One of the best priority by weight, of those that take jobs and are not among `without` (deployments)."""
        view = self._places.view()
        found = view.find(model)
        routes = [each for each in (found.routes if found is not None else ()) if each.provider.kind in JOB_KINDS]
        routes = [each for each in routes if each.deployment.id not in without]
        if not routes:
            return None
        best = [each for each in routes if each.deployment.priority == routes[0].deployment.priority]
        return _seat(_drawn(best, self._dice()), view.version)

    async def seat_of(self, execution: AsynchronousExecution) -> Seat | None:
        """Where its job is, in force or not; None when no version of the catalogue in question has that."""
        place = await self._places.of(execution)
        if place is None:
            return None
        return _seat(place.route, place.version, is_in_force=place.version == self._places.view().version)

    async def earlier_rows(self, execution: AsynchronousExecution, provider: str) -> list[AsynchronousExecution]:
        """The execution as it may have been at that provider in an earlier attempt."""
        unknown = replace(execution, provider=provider, credential=None)
        return [
            replace(unknown, deployment=each.route.deployment.id, catalogue_version=each.version)
            for each in await self._places.at_provider(execution, provider)
        ]

    def calls_back(self, seat: Seat) -> bool:
        is_wanted = seat.deployment.mode == "callback" and seat.kind.takes_callbacks(seat.target)
        return is_wanted and self.addresses.can_be_called

    async def submit(
        self, seat: Seat, execution: AsynchronousExecution, fields: dict[str, msgspec.Raw], *, deadline_s: int
    ) -> Submitted | Unsent:
        """Ask for the job of this attempt."""
        named = (seat.provider.id, execution.id, execution.attempt)
        address = self.addresses.address(*named) if self.calls_back(seat) else ""
        submission = Submission(fields, self.addresses.token(*named), address, deadline_s)
        sent = await self._errand(seat, seat.kind.submit(submission, seat.target), None, SUBMIT_S)
        match sent:
            case NotSent(reason="invalid"):
                return Submitted(Next.REFUSED, code=ErrorCode.INPUT_VALIDATION_ERROR)  # too large, most likely
            case NotSent():
                return Unsent(sent.retry_after_s)
            case Ambiguous():
                return Submitted(Next.UNKNOWN, credential=sent.credential.encode() or None)
            case Answered():
                return _read_submission(seat, sent)

    async def upload(self, seat: Seat, content: bytes, content_type: str) -> str | None:
        """What stands for the file in an input, at this provider; None when it did not take it."""
        call = seat.kind.upload(content, content_type, seat.target)
        assert call is not None, "deployments that want it are refused elsewhere"
        sent = await self._errand(seat, call, None, SUBMIT_S)
        if not isinstance(sent, Answered):
            return None
        try:
            return seat.kind.read_upload(JobAnswer(sent.status, sent.headers, sent.body), seat.target)
        except (BadAnswer, UpstreamError):
            return None

    async def ask(self, seat: Seat, execution: AsynchronousExecution, job_id: str) -> Job | Unheard:
        """How the job is, with its outputs when it succeeded."""
        told = await self._read(
            seat,
            execution,
            seat.kind.status(job_id, seat.target),
            lambda each: seat.kind.read_status(each, seat.target),
        )
        if isinstance(told, Job) and told.state is JobState.SUCCEEDED and not told.has_outputs:
            told = await self._read(
                seat,
                execution,
                seat.kind.result(job_id, seat.target),
                lambda each: seat.kind.read_result(each, seat.target),
            )
        return Unheard() if told is None else told

    def can_look_up(self, seat: Seat, execution: AsynchronousExecution) -> bool:
        """Whether the provider can find the job by our token. Replicate knows it by the address to call alone."""
        if seat.provider.kind == "replicate" and not self.calls_back(seat):
            return False
        return seat.kind.look_up(self._token(seat, execution), seat.target) is not None

    async def look_up(self, seat: Seat, execution: AsynchronousExecution) -> Job | None:
        """The job of this attempt, None when there is none, or that cannot be told now."""
        token = self._token(seat, execution)
        call = seat.kind.look_up(token, seat.target)
        assert call is not None, "asked before"
        told = await self._read(seat, execution, call, lambda each: seat.kind.read_look_up(each, token, seat.target))
        return None if isinstance(told, Unheard) else told

    async def cancel(self, seat: Seat, execution: AsynchronousExecution, job_id: str) -> bool:
        """Whether the provider was told, or cannot be."""
        call = seat.kind.cancel(job_id, seat.target)
        if call is None:
            return True
        sent = await self._errand(seat, call, execution.credential, ASK_S)
        return isinstance(sent, Answered) and sent.status < 500 and sent.status != 429

    def _token(self, seat: Seat, execution: AsynchronousExecution) -> str:
        return self.addresses.token(seat.provider.id, execution.id, execution.attempt)

    async def _read(
        self,
        seat: Seat,
        execution: AsynchronousExecution,
        call: JobCall,
        read: Callable[[JobAnswer], Job | None],
    ) -> Job | Unheard | None:
        sent = await self._errand(seat, call, execution.credential, ASK_S)
        if isinstance(sent, NotSent):
            return Unheard(sent.retry_after_s or 0.0)
        if isinstance(sent, Ambiguous):
            return Unheard()
        try:
            return read(JobAnswer(sent.status, sent.headers, sent.body))
        except UpstreamError as refused:
            return Unheard(refused.failure.retry_after_s or 0.0)
        except BadAnswer:
            return Unheard()

    async def _errand(self, seat: Seat, call: JobCall, credential: bytes | None, timeout_s: float) -> Sent:
        errand = Errand(
            provider=seat.provider.id,
            deployment=seat.deployment.id,
            method=call.method,
            url=call.path,
            timeout_s=timeout_s,
            headers=call.headers,
            body=call.body,
            credential=(credential or b"").decode(),
            credential_scheme=seat.kind.credential_scheme,
            catalogue_version=0 if seat.is_in_force else seat.version,
        )
        sent = await self._send(errand)
        if isinstance(sent, NotSent) and sent.reason == "no_credential":
            # The key that it was submitted with is gone. Another one of the same account may do.
            sent = await self._send(replace(errand, credential=""))
        return sent


def _read_submission(seat: Seat, sent: Answered) -> Submitted:
    credential = sent.credential.encode() or None
    try:
        job = seat.kind.read_submit(JobAnswer(sent.status, sent.headers, sent.body), seat.target)
    except BadAnswer:
        return Submitted(Next.UNKNOWN, credential=credential)
    except UpstreamError as refused:
        failure = refused.failure
        following = after_refusal(sent.status, failure)
        return Submitted(following, None, failure.code, failure.retry_after_s, credential)
    return Submitted(Next.ACCEPTED, job, credential=credential)


def _seat(route: Route, version: int, *, is_in_force: bool = True) -> Seat:
    provider, deployment = route.provider, route.deployment
    target = JobTarget(
        provider=provider.id,
        path_prefix=_path_of(provider.base_url),
        upstream_model=deployment.upstream_model,
        changes=deployment.request,
        error_rules=provider.error_map,
        description=provider.jobs.description,
    )
    return Seat(provider, deployment, JOB_KINDS[provider.kind], target, version, is_in_force)


def _path_of(base_url: str) -> str:
    _, _, rest = base_url.partition("://")
    _, slash, path = rest.partition("/")
    return f"/{path}" if slash else ""


def _drawn(routes: Sequence[Route], dice: float) -> Route:
    at = dice * sum(each.deployment.weight for each in routes)
    for route in routes:
        at -= route.deployment.weight
        if at < 0:
            return route
    return routes[-1]
