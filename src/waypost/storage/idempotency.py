"""Idempotency keys of inference calls: whose call a key is, from before its effect until a day later.

Whether that call has ended, and at what charge, is read from the execution's own row, so nothing has to be written
when it ends. One that ended uncharged gives its key free.
"""

from __future__ import annotations

from uuid import UUID

from waypost.kit.money import Nanos
from waypost.ledger.claim import Claim, Claimed, Earlier
from waypost.storage.pool import Pool
from waypost.storage.roles import Role

KEPT_HOURS = 24

# One statement, so two calls of one key cannot both have it: the second waits for the first one's row, and finds it.
CLAIM = f"""
WITH claimed AS (
    INSERT INTO idempotency_key AS kept
           (org_id, endpoint, key_digest, fingerprint, execution_id, node_id, node_epoch)
    VALUES (%(org_id)s, %(endpoint)s, %(key_digest)s, %(fingerprint)s, %(execution_id)s, %(node_id)s, %(node_epoch)s)
        ON CONFLICT (org_id, endpoint, key_digest) DO UPDATE
       SET fingerprint = excluded.fingerprint, execution_id = excluded.execution_id, node_id = excluded.node_id,
           node_epoch = excluded.node_epoch, created_at = now()
     WHERE kept.created_at < now() - interval '{KEPT_HOURS} hours'
        OR EXISTS (SELECT FROM execution
                    WHERE execution.org_id = kept.org_id AND execution.id = kept.execution_id AND execution.charge = 0)
    RETURNING execution_id
)
SELECT (SELECT execution_id FROM claimed), kept.fingerprint, kept.execution_id, execution.charge,
       execution.input_tokens + execution.cache_read_tokens + execution.cache_write_5m_tokens
           + execution.cache_write_1h_tokens + coalesce(execution.audio_input_tokens, 0)
           + coalesce(execution.image_input_tokens, 0),
       execution.output_tokens + coalesce(execution.audio_output_tokens, 0)
  FROM (SELECT) AS one
  LEFT JOIN idempotency_key AS kept
       ON kept.org_id = %(org_id)s AND kept.endpoint = %(endpoint)s AND kept.key_digest = %(key_digest)s
  LEFT JOIN execution ON execution.org_id = kept.org_id AND execution.id = kept.execution_id
"""  # noqa: S608 - a number of ours

FORGET = "DELETE FROM idempotency_key WHERE org_id = %(org_id)s AND execution_id = %(execution_id)s"

# What an earlier run of this node promised and never began, or has booked: the first is free again.
FORGET_INTERRUPTED = """
DELETE FROM idempotency_key
 WHERE node_id = %(node_id)s AND node_epoch < %(node_epoch)s
   AND NOT EXISTS (SELECT FROM execution
                    WHERE execution.org_id = idempotency_key.org_id AND execution.id = idempotency_key.execution_id)
"""

SWEEP = f"DELETE FROM idempotency_key WHERE created_at < now() - interval '{KEPT_HOURS} hours'"  # noqa: S608


class PostgresClaims:
    """`gateway.ports.Claims` on PostgreSQL."""

    def __init__(self, conninfo: str, *, connections_max: int = 4) -> None:
        self._pool = Pool(conninfo, Role.APP, size=connections_max)

    async def claim(self, claim: Claim, *, node_id: bytes, node_epoch: int) -> Claimed | Earlier:
        parameters = {
            "org_id": UUID(bytes=claim.org_id),
            "endpoint": claim.endpoint,
            "key_digest": claim.key_digest,
            "fingerprint": claim.fingerprint,
            "execution_id": UUID(bytes=claim.execution_id),
            "node_id": UUID(bytes=node_id),
            "node_epoch": node_epoch,
        }
        async with self._pool.tenant(claim.org_id) as connection:
            row = await (await connection.execute(CLAIM, parameters)).fetchone()
        assert row is not None
        mine, fingerprint, execution_id, charge, input_tokens, output_tokens = row
        if mine is not None:
            return Claimed()
        if fingerprint is None:  # a rival's row, newer than this statement's view
            return Earlier(is_same=True, execution_id=b"", charge_nanos=None)
        result: Nanos | None = charge
        return Earlier(
            is_same=bytes(fingerprint) == claim.fingerprint,
            execution_id=execution_id.bytes,
            charge_nanos=result,
            input_tokens=input_tokens or 0,
            output_tokens=output_tokens or 0,
        )

    async def forget(self, *, org_id: bytes, execution_id: bytes) -> None:
        parameters = {"org_id": UUID(bytes=org_id), "execution_id": UUID(bytes=execution_id)}
        async with self._pool.tenant(org_id) as connection:
            await connection.execute(FORGET, parameters)

    async def forget_interrupted(self, *, node_id: bytes, node_epoch: int) -> None:
        async with self._pool.system() as connection:
            parameters = {"node_id": UUID(bytes=node_id), "node_epoch": node_epoch}
            await connection.execute(FORGET_INTERRUPTED, parameters)

    async def sweep(self) -> int:
        async with self._pool.system() as connection:
            return (await connection.execute(SWEEP)).rowcount

    async def close_connections(self) -> None:
        await self._pool.close()
