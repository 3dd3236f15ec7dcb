"""`POST /v1/executions`: a request is checked, priced, put into the vault, held for and queued, or refused with nothing
kept of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from starlette.requests import Request

from waypost.control.answers import read_bytes
from waypost.control.estimates import estimate_of, is_for_jobs
from waypost.control.input_files import check_files
from waypost.control.services import Services
from waypost.executions.estimate import hold_for
from waypost.executions.payload_keys import GRACE_S, METADATA_BYTES_MAX, PAYLOAD_TTL_S_MAX, input_key, metadata_key
from waypost.executions.validation import check_body
from waypost.kit.codec import has_more_values_than, is_deeper_than, repeated_key
from waypost.kit.crypto import HmacSha256
from waypost.kit.errors import ErrorCode, Fault, InvalidFields, Refusal, invalid
from waypost.ledger.record import InsufficientFunds, LedgerPromoted
from waypost.ledger.shortfall import used_up
from waypost.policy.catalogue import Model
from waypost.storage.asynchronous_executions import ENDPOINT, Claim, KeyUsedOtherwise
from waypost.storage.asynchronous_rows import AsynchronousExecution
from waypost.stores.vault import ValueTooLarge, VaultError
from waypost.tenancy.api_key import ApiKey
from waypost.upstream.guard import Allowed, UrlForbidden, read_url

BODY_BYTES_MAX = 16 * 1024 * 1024
DEPTH_MAX = 64
VALUES_MAX = 32_768  # objects, arrays and strings of a body, names included: what checking it takes grows with them
NUMBERS_MAX = 524_288  # and what else is listed; tokens come as numbers, which take little
IDEMPOTENCY_KEY_CHARS_MAX = 255
CALL_DEADLINE_S = 300  # of a model that answers in a call
JOB_DEADLINE_S = 3_600  # of one whose provider works longer
_LARGE_BYTES = 32_768  # checking more than this takes long enough to be done beside the loop
_JSON = "application/json"
_FIELDS = ("model", "input", "webhook_url", "metadata")

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Acceptance:
    """One process's."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._claims_hmac = HmacSha256(services.ids_key)
        # One at a time: it keeps the interpreter busy, and threads that files are read with are not for it.
        self._checking = ThreadPoolExecutor(1, "checking")

    async def accept(self, request: Request, api_key: ApiKey) -> tuple[AsynchronousExecution, bool]:
        """The execution, and whether it is new. Raises Refusal: 400 with details, 402, 413, 415, 422, 503."""
        body, claims = await self.read(request)
        earlier = await self.replayed(claims, api_key)
        return (earlier, False) if earlier is not None else await self.accept_body(body, claims, api_key)

    async def replayed(self, claims: Sequence[Claim], api_key: ApiKey) -> AsynchronousExecution | None:
        """What was made before under that key: a repetition is answered without a look at what it asks for, as its
        model or its files may be gone. Raises Refusal 422 when the key came with another body."""
        try:
            for claim in claims:
                made = await self._services.executions.made_under(claim, org_id=api_key.org_id)
                if made is not None:
                    return made
        except KeyUsedOtherwise:
            raise Refusal(ErrorCode.IDEMPOTENCY_MISMATCH) from None
        return None

    async def accept_body(
        self, body: bytes, claims: Sequence[Claim], api_key: ApiKey
    ) -> tuple[AsynchronousExecution, bool]:
        """The same of a body that was read, and may have been written otherwise. Raises Refusal."""
        model, body_input, fields = await self._checked(body, api_key)
        execution = self._priced(model, body_input, fields, api_key)
        ttl_s = min((execution.expires_at - execution.accepted_at).total_seconds() + GRACE_S, PAYLOAD_TTL_S_MAX)
        keys = [input_key(execution.id)]
        vault = self._services.vault
        try:
            await vault.put(keys[0], _encode(body_input), ttl_s, owner=api_key.org_id)
            if fields.get("metadata"):
                keys.append(metadata_key(execution.id))
                await vault.put(keys[1], _encode(fields["metadata"]), PAYLOAD_TTL_S_MAX, owner=api_key.org_id)
        except ValueTooLarge:
            raise Refusal(ErrorCode.PAYLOAD_TOO_LARGE) from None
        except VaultError:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=2) from None
        try:
            made, is_new = await self._create(execution, api_key, claims[0] if claims else None)
        except Refusal:
            await forget(self._services, *keys)
            raise
        # Whatever else is raised, the execution may be there: then it needs its input, and else that has its own end.
        if not is_new:
            await forget(self._services, *keys)
        return made, is_new

    async def read(self, request: Request) -> tuple[bytes, tuple[Claim, ...]]:
        """The body as it came, and the claims of its idempotency key: that to be made, and those that may have been
        made. Raises Refusal: 400, 413, 415."""
        content_type = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
        if content_type != _JSON:
            text = "Send JSON with the header 'Content-Type: application/json'."
            raise Refusal(ErrorCode.UNSUPPORTED_MEDIA_TYPE, text)
        key = request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= IDEMPOTENCY_KEY_CHARS_MAX:
            told = f"'Idempotency-Key' has 1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters."
            raise invalid("Idempotency-Key", told, "OUT_OF_RANGE")
        body = await read_bytes(request, BODY_BYTES_MAX)
        if key is None:
            return body, ()
        said, asked = b"execution key\0" + key.encode(), ENDPOINT.encode() + b"\0" + body
        # Under a secret that every process has at every time: one without the newest pepper, not yet or no more, would
        # execute a repetition. Claims were made under peppers once, and stand for a day after the upgrade.
        hmacs = (self._claims_hmac, *(pepper.hmac for pepper in self._services.keyring.peppers.all))
        return body, tuple(Claim(hmac.digest(said), hmac.digest(asked)) for hmac in hmacs)

    async def _checked(self, body: bytes, api_key: ApiKey) -> tuple[Model, dict[str, Any], dict[str, Any]]:
        """The model, the input, and all fields of the body."""
        _check_size(body)
        try:
            if body.count(b"{") + body.count(b"[") > DEPTH_MAX and is_deeper_than(body, DEPTH_MAX):
                raise invalid(None, f"The body nests more than {DEPTH_MAX} levels.")
            fields = _decode(body)
        except (ValueError, RecursionError):
            raise invalid(None, "The body is not valid JSON.") from None
        name = fields.get("model") if isinstance(fields, dict) else None
        found = self._services.view().find(name) if isinstance(name, str) else None
        model = None if found is None else found.model
        if model is not None and api_key.models is not None and model.slug not in api_key.models:
            model = None  # as unknown as one that there is not
        modality, schema = ("", "") if model is None else (model.modality, model.input_schema)

        def check() -> tuple[bytes, ...]:
            twice = repeated_key(body, _FIELDS)
            if twice is not None:
                raise invalid(twice, f"'{twice}' stands twice in the body.")
            return check_body(fields, modality=modality, input_schema=schema)

        if len(body) < _LARGE_BYTES:
            file_ids = check()
        else:
            file_ids = await asyncio.get_running_loop().run_in_executor(self._checking, check)
        if model is None:
            raise InvalidFields([Fault("model", "INVALID_VALUE", "There is no such model. GET /v1/models lists them.")])
        _check_webhook_url(fields.get("webhook_url"), self._services.webhooks.allowed())
        if len(_encode(fields.get("metadata"))) > METADATA_BYTES_MAX:
            told = f"'metadata' is at most {METADATA_BYTES_MAX} bytes of JSON."
            raise InvalidFields([Fault("metadata", "OUT_OF_RANGE", told)])
        await check_files(self._services.files, api_key.org_id, model, fields["input"], file_ids)
        return model, fields["input"], fields

    def _priced(
        self, model: Model, body_input: dict[str, Any], fields: dict[str, Any], api_key: ApiKey
    ) -> AsynchronousExecution:
        now_ms = self._services.clock.unix_ns() // 1_000_000
        now = datetime.fromtimestamp(now_ms // 1000, UTC) + timedelta(milliseconds=now_ms % 1000)
        estimate_nanos = estimate_of(model, body_input, at_ms=now_ms)
        url = fields.get("webhook_url")
        deadline_s = model.deadline_s or (JOB_DEADLINE_S if is_for_jobs(model) else CALL_DEADLINE_S)
        return AsynchronousExecution(
            id=self._services.ids.new(),
            org_id=api_key.org_id,
            api_key_id=api_key.id,
            model=model.slug,
            modality=model.modality,
            price_version=self._services.view().version,
            estimate_nanos=estimate_nanos,
            hold_nanos=hold_for(estimate_nanos),
            accepted_at=now,
            expires_at=now + timedelta(seconds=deadline_s),
            webhook_url=None if url is None else self._services.webhooks.sealed.seal_url(api_key.org_id, url),
        )

    async def _create(
        self, execution: AsynchronousExecution, api_key: ApiKey, claim: Claim | None
    ) -> tuple[AsynchronousExecution, bool]:
        owners = () if api_key.chain is None else api_key.chain.owners
        try:
            return await self._services.executions.create(execution, owners=owners, claim=claim)
        except InsufficientFunds as short:
            message = "" if short.budget is None else used_up(short.budget)
            raise Refusal(ErrorCode.INSUFFICIENT_BALANCE, message) from None
        except KeyUsedOtherwise:
            raise Refusal(ErrorCode.IDEMPOTENCY_MISMATCH) from None
        except LedgerPromoted:  # unlike another LedgerUnavailable it says that nothing was made
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=2) from None


async def forget(services: Services, *keys: str) -> None:
    """Take payloads out of the vault now, if it can be reached; their time is over soon either way."""
    try:
        await services.vault.delete(*keys)
    except VaultError:
        return


def _check_size(body: bytes) -> None:
    """Raises Refusal 413 where checking the body would take long, before it is even read."""
    if has_more_values_than(body, VALUES_MAX, others_max=NUMBERS_MAX):
        told = f"The body has more than {VALUES_MAX:,} objects, arrays and strings, or {NUMBERS_MAX:,} elements in all."
        raise Refusal(ErrorCode.PAYLOAD_TOO_LARGE, told)


def _check_webhook_url(url: str | None, allowed: Allowed) -> None:
    """Raises InvalidFields. Where its name leads is looked at when it is called."""
    if url is None:
        return
    try:
        read_url(url, allowed)
    except UrlForbidden as forbidden:
        told = f"'webhook_url' cannot be called. {forbidden}"
        raise InvalidFields([Fault("webhook_url", "INVALID_FORMAT", told)]) from None
