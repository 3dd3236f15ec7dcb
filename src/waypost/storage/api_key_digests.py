"""Digests of API keys by the pepper that they were made under: moved to the newest, counted, and ended.

A key that has moved is known under both, so that a machine which has not been given the newest pepper goes on knowing
it; only when a pepper is retired do the digests under it end that others stand beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from waypost.storage.changes import Followed, take_version
from waypost.storage.pool import Pool

# Each key has a version of its own, by which it is followed. What a pepper that comes back left is there still.
MOVE = """
WITH moved AS (
    SELECT before.*, new_digest, dense_rank() OVER (ORDER BY before.api_key_id) - 1 AS place
      FROM unnest(%(old)s::bytea[], %(new)s::bytea[]) AS pair (old_digest, new_digest)
      JOIN api_key_digest AS before ON before.digest = old_digest
       AND (before.valid_until IS NULL OR before.valid_until > now())
), told AS (
    UPDATE api_key SET version = %(version)s + place FROM moved WHERE api_key.id = moved.api_key_id
)
INSERT INTO api_key_digest (digest, api_key_id, org_id, pepper_version, prefix, last_four, created_at, valid_until)
SELECT new_digest, api_key_id, org_id, %(pepper_version)s, prefix, last_four, created_at, valid_until FROM moved
    ON CONFLICT (digest) DO UPDATE SET valid_until = excluded.valid_until
"""

# A text of a key is told from its other texts by what people see of it: 52 bits, of the two that a key has at most.
_VALID = """
       api_key_digest AS own JOIN api_key ON api_key.id = own.api_key_id
 WHERE (own.valid_until IS NULL OR own.valid_until > now())
   AND (api_key.valid_until IS NULL OR api_key.valid_until > now())
"""
_KNOWN_OTHERWISE = """
       EXISTS (SELECT FROM api_key_digest AS other
                WHERE other.api_key_id = own.api_key_id AND other.prefix = own.prefix
                  AND other.last_four = own.last_four AND other.pepper_version <> own.pepper_version
                  AND other.pepper_version = ANY(%(in_force)s)
                  AND (other.valid_until IS NULL OR other.valid_until > now()))
"""

COUNT = f"""
SELECT own.pepper_version, count(*), count(*) FILTER (WHERE NOT {_KNOWN_OTHERWISE}),
       count(DISTINCT own.org_id) FILTER (WHERE NOT {_KNOWN_OTHERWISE})
  FROM {_VALID}
 GROUP BY own.pepper_version ORDER BY own.pepper_version
"""  # noqa: S608 - put together from texts of ours, here and below

END_MOVED = f"""
UPDATE api_key_digest AS own SET valid_until = now()
 WHERE own.pepper_version = %(pepper_version)s AND (own.valid_until IS NULL OR own.valid_until > now())
   AND {_KNOWN_OTHERWISE}
"""  # noqa: S608

NEWEST = "SELECT coalesce(max(pepper_version), 0) FROM api_key_digest"


class OfPepper(msgspec.Struct, frozen=True):
    """The valid keys that are known by a digest under this version; a key that was rotated within the hour is two."""

    version: int
    keys: int
    only_here: int  # of them, those not known under another version that is in force
    organisations: int  # whose those are


async def move_digests(pool: Pool, moved: Mapping[bytes, bytes], pepper_version: int) -> None:
    """Know keys under other digests too; `moved` has the old to the new ones. Every process may do so, again without
    effect. `pool` is the app's, here and below."""
    async with pool.system() as connection:
        version = await take_version(connection, Followed.API_KEYS)
        await connection.execute(
            MOVE,
            {"old": list(moved), "new": list(moved.values()), "version": version, "pepper_version": pepper_version},
        )


async def count_by_pepper(pool: Pool, in_force: Sequence[int]) -> list[OfPepper]:
    """By every version that a valid key has a digest under, whether or not it is among those in force."""
    async with pool.system(is_view=True) as connection:
        rows = await (await connection.execute(COUNT, {"in_force": list(in_force)})).fetchall()
    return [OfPepper(*row) for row in rows]


async def end_moved(pool: Pool, pepper_version: int, in_force: Sequence[int]) -> None:
    """The pepper is retired: its digests end where the key is known under one in force."""
    async with pool.system() as connection:
        await connection.execute(END_MOVED, {"pepper_version": pepper_version, "in_force": list(in_force)})


async def newest_pepper(pool: Pool) -> int:
    """The highest version that any key ever had a digest under; 0 where there are none."""
    async with pool.system(is_view=True) as connection:
        row = await (await connection.execute(NEWEST)).fetchone()
    assert row is not None
    newest: int = row[0]
    return newest
