"""The row of an asynchronous execution, and the value that it is."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from waypost.executions.lifecycle import Mode, State
from waypost.kit.money import Nanos

# fmt: off
FIXED = (
    "id", "org_id", "api_key_id", "model", "modality", "price_version", "estimate", "hold", "accepted_at", "expires_at",
    "webhook_url",
)
CHANGING = (
    "state", "attempt", "started_at", "ended_at", "cancel_requested_at", "error_code", "mode", "provider", "deployment",
    "catalogue_version", "provider_job", "credential", "polls", "sequence", "output_files", "result_until",
)
COLUMNS = (*FIXED, *CHANGING, "version")
# fmt: on


class OutputFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that an execution made. Measures are in pixels and milliseconds, 0 = it has none or nobody measured."""

    id: bytes
    content_type: str
    bytes: int = 0
    width: int = 0
    height: int = 0
    duration_ms: int = 0


class AsynchronousExecution(msgspec.Struct, frozen=True, kw_only=True):
    """One row. Everything from `state` on changes, by `Executions.step`."""

    id: bytes
    org_id: bytes
    api_key_id: bytes
    model: str  # our slug
    modality: str
    price_version: int
    estimate_nanos: Nanos
    hold_nanos: Nanos
    accepted_at: datetime
    expires_at: datetime
    webhook_url: str | None = None
    state: State = State.RECEIVED
    attempt: int = 0  # n: at a provider of jobs its submits, else how often the work was begun
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    error_code: str = ""  # canonical, of one that FAILED or EXPIRED
    mode: Mode | None = None
    provider: str | None = None
    deployment: str | None = None
    catalogue_version: int | None = None  # that its newest submission was made under
    provider_job: str | None = None  # the provider's name for its job
    credential: bytes | None = None  # digest of the key that the job was submitted with
    polls: int = 0
    sequence: int = 0  # of the newest event
    output_files: tuple[OutputFile, ...] = ()
    result_until: datetime | None = None  # the vault keeps its text result until then
    version: int = 1


def parameters_of(execution: AsynchronousExecution) -> dict[str, object]:
    """By the names of its columns, but for `version`."""
    values: dict[str, object] = {
        name: getattr(execution, name) for name in (*FIXED, *CHANGING) if name not in ("estimate", "hold")
    }
    values |= {name: UUID(bytes=getattr(execution, name)) for name in ("id", "org_id", "api_key_id")}
    values |= {"estimate": execution.estimate_nanos, "hold": execution.hold_nanos, "state": execution.state.name}
    values["mode"] = None if execution.mode is None else execution.mode.value
    values["output_files"] = Jsonb([*map(_file_value, execution.output_files)]) if execution.output_files else None
    return values


def execution_of(row: TupleRow) -> AsynchronousExecution:
    """The value of a row of `COLUMNS`."""
    values = dict(zip(COLUMNS, row, strict=True))
    values |= {name: values[name].bytes for name in ("id", "org_id", "api_key_id")}
    values["estimate_nanos"], values["hold_nanos"] = values.pop("estimate"), values.pop("hold")
    values["state"] = State[values["state"]]
    values["mode"] = None if values["mode"] is None else Mode(values["mode"])
    values["credential"] = None if values["credential"] is None else bytes(values["credential"])
    values["output_files"] = tuple(_file_of(each) for each in values["output_files"] or ())
    return AsynchronousExecution(**values)


def _file_value(file: OutputFile) -> dict[str, object]:
    return msgspec.structs.asdict(file) | {"id": file.id.hex()}


def _file_of(value: dict[str, Any]) -> OutputFile:
    return OutputFile(**(value | {"id": bytes.fromhex(value["id"])}))
