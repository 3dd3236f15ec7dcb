"""Announcing that an execution has changed: a delivery for each receiver, in the transaction that changes it.

A delivery is its own job: `worker.webhooks` takes what is due. Nobody waits for a receiver here.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import msgspec
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from waypost.executions.lifecycle import public_status
from waypost.kit.ids import Ids, text
from waypost.storage.asynchronous_executions import Ending
from waypost.storage.asynchronous_rows import AsynchronousExecution, OutputFile
from waypost.webhooks.event import FILES_MAX, EventType, ExecutionFacts, ResultFile
from waypost.webhooks.sealed import Sealed
from waypost.wire.canonical import Usage

CHANNEL = "waypost_webhook"
ENDPOINTS_CEILING = 100  # of an organisation, whatever the settings say
EXPIRES_S = 86_400.0

# An endpoint that was found failing has its events kept as dead letters, for the day on which it is well again. One
# that its owner has paused, or that has said it is gone, has none.
ANNOUNCE = f"""
WITH receiver AS (
    SELECT id AS endpoint_id, NULL::text AS url, id AS lane, state = 'ACTIVE' AS is_active
      FROM webhook_endpoint
     WHERE org_id = %(org_id)s AND state IN ('ACTIVE', 'FAILING')
       AND (events = '{{}}' OR %(event)s::text = ANY (events))
    UNION ALL
    SELECT NULL, %(url)s::text, %(url_lane)s::uuid, true WHERE %(url)s::text IS NOT NULL
),
numbered AS (
    SELECT receiver.*, row_number() OVER (ORDER BY endpoint_id) AS place FROM receiver LIMIT {ENDPOINTS_CEILING + 1}
),
announced AS (
    INSERT INTO webhook_delivery (id, org_id, endpoint_id, url, lane, event_id, event, execution_id, sequence, facts,
                                  state, due_at, expires_at, ended_at, reason)
    SELECT overlay(%(first_id)s::text PLACING lpad(to_hex(place), 2, '0') FROM 35)::uuid,
           %(org_id)s, endpoint_id, url, lane, %(event_id)s, %(event)s, %(execution_id)s,
           %(sequence)s, %(facts)s, CASE WHEN is_active THEN 'PENDING' ELSE 'DEAD' END, now(),
           now() + make_interval(secs => %(expires_s)s), CASE WHEN NOT is_active THEN now() END,
           CASE WHEN NOT is_active THEN 'endpoint_inactive' END
      FROM numbered
)
SELECT pg_notify('{CHANNEL}', '') FROM numbered WHERE is_active LIMIT 1
"""  # noqa: S608 - put together from texts of ours


class Announcer:
    """Announces the steps of executions: `storage.asynchronous_executions.Announce`."""

    def __init__(self, ids: Ids, sealed: Sealed, *, expires_s: float = EXPIRES_S) -> None:
        """`expires_s`: a delivery is given up after it. It may be set anew."""
        self._ids = ids
        self._sealed = sealed
        self.expires_s = expires_s

    async def __call__(
        self, connection: AsyncConnection, execution: AsynchronousExecution, event: str, ending: Ending | None
    ) -> None:
        """Tell the organisation's endpoints that want to know, and the URL that came with the request, when the
        connection's transaction is committed. One statement; the connection is of who keeps the books."""
        url = execution.webhook_url  # sealed to the organisation, as the delivery needs it, unless the row is older
        parameters = {
            "org_id": UUID(bytes=execution.org_id),
            "execution_id": UUID(bytes=execution.id),
            "event": EventType(event).value,
            "event_id": UUID(bytes=self._ids.new()),
            "sequence": execution.sequence,
            "facts": Jsonb(msgspec.to_builtins(facts_of(execution, ending))),
            "url": None if url is None else self._sealed.seal_url(execution.org_id, url),
            "url_lane": None if url is None else UUID(bytes=self._sealed.lane(execution.org_id, url)),
            "first_id": str(UUID(bytes=self._ids.new())),  # the others differ in their last two digits
            "expires_s": self.expires_s,
        }
        await connection.execute(ANNOUNCE, parameters)


def facts_of(execution: AsynchronousExecution, ending: Ending | None) -> ExecutionFacts:
    """What is told of an execution after a step."""
    ended_at = execution.ended_at
    took = None if ended_at is None else ended_at - execution.accepted_at
    return ExecutionFacts(
        model=execution.model,
        status=public_status(execution.state, execution.mode),
        created_at=execution.accepted_at,
        completed_at=ended_at,
        cost_nanos=None if ending is None else ending.charge_nanos,
        latency_ms=None if took is None else took // timedelta(milliseconds=1),
        usage=None if ending is None else _usage(ending.usage),
        error_code=execution.error_code or None,
        files=tuple(_file(each) for each in execution.output_files[:FILES_MAX]),
    )


def _usage(usage: Usage) -> dict[str, int | bool]:
    """As an execution shows it; what few have is left out where it is zero."""
    rare = {"images": usage.images, "duration_ms": usage.duration_ms, "characters": usage.characters}
    return {
        "input_tokens": usage.input_tokens + usage.audio_input_tokens + usage.image_input_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
        "output_tokens": usage.all_output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "is_estimated": usage.is_estimated,
        **{name: count for name, count in rare.items() if count},
    }


def _file(file: OutputFile) -> ResultFile:
    return ResultFile(text("file", file.id), file.content_type, file.width or None, file.height or None)
