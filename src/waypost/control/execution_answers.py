"""How an execution reads in JSON, by ModelRoute's field names and ours.

Its pages show the outcome in two shapes, `result` (one file) and `output` (everything); an execution here has both.
"""

from __future__ import annotations

import msgspec

from waypost.control.answers import moment
from waypost.kit import ids
from waypost.kit.errors import ErrorCode
from waypost.kit.money import format_usd
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.storage.executions import Ended, ExecutionRow

_RARE = ("images", "duration_ms", "characters")
_KINDS = {"image": "images", "video": "videos", "audio": "audios"}
_FAILED_STATUSES = ("FAILED", "EXPIRED")


def accepted(execution: AsynchronousExecution) -> dict[str, object]:
    """The answer to its creation; the same whenever it is asked for under one idempotency key."""
    return {
        "id": ids.text("exec", execution.id),
        "status": "PENDING",
        "model": execution.model,
        "hold_amount": format_usd(execution.hold_nanos),
        "estimated_cost": format_usd(execution.estimate_nanos),
        "expires_at": moment(execution.expires_at),
        "created_at": moment(execution.accepted_at),
    }


def shown(row: ExecutionRow) -> dict[str, object]:
    """What is known of an execution without its content."""
    own, ended = row.asynchronous, row.ended
    known = own or ended
    assert known is not None
    answer: dict[str, object] = {
        "id": ids.text("exec", row.id),
        "status": row.status,
        "model": known.model,
        "usage": None if ended is None else _usage(ended),
        "cost": None if ended is None else format_usd(ended.charge_nanos - row.refunded_nanos),
        "created_at": moment(known.accepted_at),
        "completed_at": None if ended is None else moment(ended.closed_at),
        "latency_ms": latency_ms(row),
        "error": error_of(row),
    }
    if own is not None:
        answer |= {
            "hold_amount": format_usd(own.hold_nanos),
            "estimated_cost": format_usd(own.estimate_nanos),
            "expires_at": moment(own.expires_at),
            "started_at": moment(own.started_at),
            "cancel_requested_at": moment(own.cancel_requested_at),
            "result": _result(own),
        }
        if row.refunded_nanos:
            answer["refunded"] = format_usd(row.refunded_nanos)
    return answer


def output_of(execution: AsynchronousExecution, kept: bytes | None) -> object:
    """All that it made: files by kind, or what the vault kept; None when there is neither."""
    if execution.output_files:
        by_kind: dict[str, list[object]] = {}
        for file in execution.output_files:
            kind = _KINDS.get(file.content_type.partition("/")[0], "files")
            by_kind.setdefault(kind, []).append(_file(file) | {"format": file.content_type.partition("/")[2]})
        return by_kind
    return None if kept is None else msgspec.Raw(kept)


def latency_ms(row: ExecutionRow) -> int | None:
    """From acceptance to the end."""
    if row.ended is None:
        return None
    return int((row.ended.closed_at - row.ended.accepted_at).total_seconds() * 1000)


def error_of(row: ExecutionRow) -> dict[str, object] | None:
    """Why it ended without a result; None for one that did not, or was cancelled."""
    if row.ended is None or row.status not in _FAILED_STATUSES:
        return None
    # What we ended ourselves without a code of its own was told so.
    code = ErrorCode[row.ended.error_code or ErrorCode.SERVICE_UNAVAILABLE.name]
    return {"code": code.name, "message": code.message, "retryable": code.is_retryable}


def _result(execution: AsynchronousExecution) -> dict[str, object] | None:
    return _file(execution.output_files[0]) if execution.output_files else None


def _file(file: OutputFile) -> dict[str, object]:
    shown_file: dict[str, object] = {"file_id": ids.text("file", file.id), "content_type": file.content_type}
    measures = {"width": file.width, "height": file.height, "duration_ms": file.duration_ms, "size_bytes": file.bytes}
    return shown_file | {name: value for name, value in measures.items() if value}


def _usage(row: Ended) -> dict[str, object]:
    usage: dict[str, object] = {
        "input_tokens": row.input_tokens,
        "cache_read_tokens": row.cache_read_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        "output_tokens": row.output_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "is_estimated": row.is_estimated,
    }
    return usage | {name: getattr(row, name) for name in _RARE if getattr(row, name)}
