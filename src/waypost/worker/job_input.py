"""The input of an execution as one provider of jobs takes it: out of the vault, with its files in the form that the
deployment wants.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from waypost.executions.payload_keys import input_key
from waypost.executions.provider_job import files_named, with_files
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal
from waypost.storage.asynchronous_rows import AsynchronousExecution
from waypost.stores.vault import Vault
from waypost.worker.job_desk import Seat


class Content(msgspec.Struct, frozen=True):
    """A file to be uploaded to the provider."""

    data: bytes
    content_type: str

    def __repr__(self) -> str:
        return f"<content of {len(self.data)} bytes>"


Deliver = Callable[[bytes, bytes, str, int], Awaitable[str | Content]]
"""(organisation, file, one of policy.catalogue.INPUT_DELIVERIES, Unix second until which the provider may need it) →
what stands for the file in the request, or what is to be uploaded. Raises Refusal, such as FILE_NOT_FOUND."""
Upload = Callable[[Seat, bytes, str], Awaitable[str | None]]
"""(provider, content, its type) → what stands for it there, None when it was not taken."""

_decode = msgspec.json.Decoder().decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class InputGone(Exception):
    """The vault does not have it any more: the execution cannot be carried out, and its caller may try again."""


class JobInputs:
    """One process's."""

    def __init__(self, vault: Vault, deliver: Deliver, upload: Upload) -> None:
        self._vault = vault
        self._deliver = deliver
        self._upload = upload

    async def read(self, execution: AsynchronousExecution, seat: Seat) -> dict[str, msgspec.Raw]:
        """Its fields. Raises InputGone, VaultError, and Refusal for a file that cannot be delivered:
        SERVICE_UNAVAILABLE when it can later."""
        kept = await self._vault.get(input_key(execution.id))
        if kept is None:
            raise InputGone
        if b"file_" not in kept:
            return _decode_fields(kept)
        body_input: Any = _decode(kept)
        delivered = {}
        until_s = int(execution.expires_at.timestamp())
        for name in files_named(body_input, _is_file):
            file_id = ids.parse("file", name)
            file = await self._deliver(execution.org_id, file_id, seat.deployment.input_delivery, until_s)
            delivered[name] = file if isinstance(file, str) else await self._uploaded(seat, file)
        return _decode_fields(_encode(with_files(body_input, delivered)))

    async def _uploaded(self, seat: Seat, file: Content) -> str:
        address = await self._upload(seat, file.data, file.content_type)
        if address is None:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE)
        return address

    async def asked_for(self, execution: AsynchronousExecution) -> dict[str, Any] | None:
        """What was asked for, as its caller put it; None when it is gone. Raises VaultError."""
        kept = await self._vault.get(input_key(execution.id))
        return None if kept is None else _decode(kept)


def _is_file(value: str) -> bool:
    try:
        ids.parse("file", value)
    except ValueError:
        return False
    return True
