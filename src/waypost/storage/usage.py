"""What an organisation used, by day and model: from the rows of its executions, less what was refunded of them. What it
paid in all is what left its balance. Of days whose rows are gone (`retention`), sums without models are left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from uuid import UUID

import msgspec

from waypost.kit.ids import lowest_at
from waypost.kit.money import Nanos
from waypost.storage.pool import Pool

_DAY = "(accepted_at AT TIME ZONE 'UTC')::date"
_GIVEN_BACK = """
SELECT coalesce(execution_id, refund.attempt_id) AS id, sum(amount) AS refunded
  FROM refund
  LEFT JOIN settlement ON settlement.attempt_id = refund.attempt_id  -- a long hold has the id of its execution
"""
_SUMS = """
       count(*),
       sum(input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens
           + coalesce(audio_input_tokens, 0) + coalesce(image_input_tokens, 0))::bigint,
       sum(output_tokens + coalesce(audio_output_tokens, 0))::bigint,
       coalesce(sum(images), 0)::bigint,
       coalesce(sum(duration_ms), 0)::bigint,
       coalesce(sum(characters), 0)::bigint,
       count(*) FILTER (WHERE is_estimated),
       (sum(charge) - coalesce(sum(refunded), 0))::bigint,
       coalesce(sum(refunded), 0)::bigint
"""
_COLUMNS = (
    "requests, input_tokens, output_tokens, images, duration_ms, characters, estimated, charge, refunded"  # of _SUMS
)

# The id's time is the time of acceptance, so the bound prunes whole partitions.
USAGE = f"""
WITH given_back AS MATERIALIZED (
    {_GIVEN_BACK} WHERE refund.org_id = %(org_id)s AND refund.attempt_id >= %(lowest_id)s GROUP BY 1
)
SELECT {_DAY} AS day, model, {_SUMS}
  FROM execution
  LEFT JOIN given_back USING (id)
 WHERE execution.org_id = %(org_id)s AND id >= %(lowest_id)s
 GROUP BY day, model
 UNION ALL
SELECT day, '', {_COLUMNS} FROM usage_day WHERE org_id = %(org_id)s AND day >= %(since)s
 ORDER BY day, model
"""  # noqa: S608 - put together from the texts above, here and below

# Of the rows in one partition, whose name is put in. The bound is right for refunds because an attempt's id has the
# time of its execution's, and a refund has the id of what it refunds, however late it was given.
KEEP_DAYS = f"""
WITH given_back AS MATERIALIZED ({_GIVEN_BACK} WHERE refund.attempt_id < %(below)s GROUP BY 1)
INSERT INTO usage_day AS kept (org_id, day, {_COLUMNS})
SELECT org_id, {_DAY} AS day, {_SUMS}
  FROM {{rows}}
  LEFT JOIN given_back USING (id)
 WHERE id < %(below)s
 GROUP BY org_id, day
    ON CONFLICT (org_id, day) DO UPDATE
   SET {", ".join(f"{name} = kept.{name} + excluded.{name}" for name in _COLUMNS.split(", "))}
"""  # noqa: S608


class UsageRow(msgspec.Struct, frozen=True):
    """One model on one day (UTC), or the total of several rows: `day` None and `model` empty."""

    day: date | None
    model: str  # empty for a day whose executions are gone
    requests: int
    input_tokens: int  # all input classes together
    output_tokens: int  # audio included
    images: int  # generated
    duration_ms: int
    characters: int
    estimated: int  # requests whose usage their provider did not report
    charge_nanos: Nanos  # paid in the end
    refunded_nanos: Nanos  # charged besides, and given back


async def usage_of(pool: Pool, org_id: bytes, *, since_ms: int = 0) -> list[UsageRow]:
    """Rows by day and model, oldest first, of what was accepted from `since_ms` on. `pool` is the app's."""
    parameters = {
        "org_id": UUID(bytes=org_id),
        "lowest_id": UUID(bytes=lowest_at(since_ms)),
        "since": datetime.fromtimestamp(since_ms // 1000, UTC).date(),
    }
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(USAGE, parameters)).fetchall()
    return [UsageRow(*row) for row in rows]


def total_of(rows: Sequence[UsageRow]) -> UsageRow:
    return UsageRow(
        None,
        "",
        sum(row.requests for row in rows),
        sum(row.input_tokens for row in rows),
        sum(row.output_tokens for row in rows),
        sum(row.images for row in rows),
        sum(row.duration_ms for row in rows),
        sum(row.characters for row in rows),
        sum(row.estimated for row in rows),
        sum(row.charge_nanos for row in rows),
        sum(row.refunded_nanos for row in rows),
    )
