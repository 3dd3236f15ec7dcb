"""What a webhook says: that an execution has changed, by ids, numbers and codes. Never prompt or output."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

import msgspec

from waypost.kit import ids
from waypost.kit.errors import ErrorCode
from waypost.kit.money import Nanos, format_usd

VERSION = "1.0"  # of the body's form, after ModelRoute
FILES_MAX = 64  # told of one execution


class EventType(Enum):
    """ModelRoute's four, `expired` for what runs out of time, and the one that only a test sends."""

    STARTED = "execution.started"
    COMPLETED = "execution.completed"
    FAILED = "execution.failed"
    CANCELLED = "execution.cancelled"
    EXPIRED = "execution.expired"
    TEST = "webhook.test"


SUBSCRIBABLE = tuple(each.value for each in EventType if each is not EventType.TEST)


class ResultFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stored result, as the result of an execution tells it. `file_id` is `file_<uuid>`."""

    file_id: str
    content_type: str | None = None
    width: int | None = None
    height: int | None = None


class ExecutionFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is told of an execution as it was when the event happened. `status` is the public state."""

    model: str
    status: str
    created_at: datetime
    completed_at: datetime | None = None
    cost_nanos: Nanos | None = None
    latency_ms: int | None = None
    usage: dict[str, int | bool] | None = None
    error_code: str | None = None  # a name of ErrorCode
    files: tuple[ResultFile, ...] = ()


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One change of an execution. Its id is the same in every attempt; `sequence` counts within the execution."""

    id: bytes
    type: EventType
    org_id: bytes
    execution_id: bytes | None  # None: a test
    sequence: int
    happened_at: datetime
    facts: ExecutionFacts | None

    @property
    def message_id(self) -> str:
        """`evt_<uuid>`: what receivers tell repetitions by."""
        return ids.text("evt", self.id)


def body_of(event: Event) -> bytes:
    """The JSON body; the same bytes for the same event."""
    execution_id = None if event.execution_id is None else ids.text("exec", event.execution_id)
    # ModelRoute's pages name the type both ways.
    return _encode(
        {
            "id": event.message_id,
            "event_type": event.type.value,
            "type": event.type.value,
            "timestamp": _moment(event.happened_at),
            "version": VERSION,
            "organization_id": ids.text("org", event.org_id),
            "execution_id": execution_id,
            "sequence": event.sequence,
            "data": {} if event.facts is None else _data(execution_id, event.facts),
        }
    )


def _data(execution_id: str | None, facts: ExecutionFacts) -> dict[str, object]:
    files = [msgspec.to_builtins(each) for each in facts.files]
    error = None if facts.error_code is None else ErrorCode[facts.error_code]
    return {
        "id": execution_id,
        "status": facts.status,
        "model": facts.model,
        "usage": facts.usage,
        "cost": None if facts.cost_nanos is None else format_usd(facts.cost_nanos),
        "latency_ms": facts.latency_ms,
        "result": files[0] if files else None,
        "files": files,
        "error": None if error is None else {"code": error.name, "message": error.message},
        "created_at": _moment(facts.created_at),
        "completed_at": None if facts.completed_at is None else _moment(facts.completed_at),
    }


def _moment(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_encode = msgspec.json.Encoder().encode
