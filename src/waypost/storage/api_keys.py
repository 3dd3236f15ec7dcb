"""API keys: made, listed, revoked, rotated; and followed by the gateways."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from uuid import UUID

import msgspec

from waypost.kit.ids import text
from waypost.storage.budgets import add_budget
from waypost.storage.changes import Followed, take_version
from waypost.storage.pool import Pool
from waypost.tenancy.api_key import ApiKey, Scope, shown
from waypost.tenancy.budget import Budget, Chain, Period
from waypost.tenancy.pepper import Pepper

ROTATION_GRACE_S = 3600  # how long a rotated key's old text stays valid

CREATE = """
INSERT INTO api_key (id, org_id, name, scope, requests_per_minute, tokens_per_minute, models, version, project_id,
                     in_flight_max)
VALUES (%(id)s, %(org_id)s, %(name)s, %(scope)s, %(requests_per_minute)s, %(tokens_per_minute)s, %(models)s,
        %(version)s, %(project_id)s, %(in_flight_max)s)
"""

ADD_DIGEST = """
INSERT INTO api_key_digest (digest, api_key_id, org_id, pepper_version, prefix, last_four)
SELECT %(digest)s, id, org_id, %(pepper_version)s, %(prefix)s, %(last_four)s FROM api_key WHERE id = %(id)s
"""

# Revoking again keeps the first moment; a revoked key is not rotated.
REVOKE = """
UPDATE api_key SET valid_until = now(), version = %(version)s
 WHERE id = %(id)s AND org_id = coalesce(%(org_id)s, org_id) AND (valid_until IS NULL OR valid_until > now())
"""

ROTATE = """
UPDATE api_key SET version = %(version)s
 WHERE id = %(id)s AND org_id = coalesce(%(org_id)s, org_id) AND (valid_until IS NULL OR valid_until > now())
RETURNING project_id, requests_per_minute, tokens_per_minute, models, in_flight_max
"""

END_DIGESTS = """
UPDATE api_key_digest SET valid_until = now() + make_interval(secs => %(grace_s)s)
 WHERE api_key_id = %(id)s AND valid_until IS NULL
RETURNING valid_until
"""

KNOWN = "SELECT FROM api_key WHERE id = %(id)s AND org_id = coalesce(%(org_id)s, org_id)"

COUNT_VALID = """
SELECT count(*) FROM api_key WHERE org_id = %s AND (valid_until IS NULL OR valid_until > now())
"""

LIST = """
SELECT api_key.id, name, scope, requests_per_minute, tokens_per_minute, models, api_key.created_at,
       api_key.valid_until, prefix, last_four, project_id, budget.amount, budget.period, in_flight_max
  FROM api_key
  LEFT JOIN budget ON owner_id = api_key.id
  JOIN LATERAL (SELECT prefix, last_four FROM api_key_digest
                 WHERE api_key_id = api_key.id ORDER BY created_at DESC LIMIT 1) AS newest ON true
 WHERE api_key.org_id = %(org_id)s
 ORDER BY api_key.id
"""

# The chain begins with the innermost owner of a budget.
# A text that is over is told as over since 1970: the follower's clock may be behind this one.
SINCE = """
SELECT id, org_id, digest, scope, requests_per_minute, tokens_per_minute, models,
       CASE WHEN ends <= now() THEN 0 ELSE floor(extract(epoch FROM ends) * 1000)::bigint END, project_id,
       owners, periods, in_flight_max, (SELECT in_flight_max FROM org WHERE org.id = told.org_id)
  FROM (SELECT api_key.*, digest, least(api_key.valid_until, api_key_digest.valid_until) AS ends
          FROM api_key JOIN api_key_digest ON api_key_id = api_key.id
         WHERE version > %(version)s) AS told
  LEFT JOIN LATERAL (
       SELECT array_agg(owner_id ORDER BY owner_kind = 'key' DESC, owner_kind = 'project' DESC, period) AS owners,
              array_agg(period) AS periods
         FROM budget
        WHERE budget.org_id = told.org_id AND owner_id IN (told.id, told.project_id, told.org_id)
       ) AS chain ON true
 WHERE %(version)s > 0 OR ends IS NULL OR ends > now()
"""

NEWEST = "SELECT coalesce(max(version), 0) FROM api_key"

ARE_ANY = "SELECT EXISTS (SELECT FROM api_key)"


class Limits(msgspec.Struct, frozen=True):
    """What a key may do; None = unlimited, `models` None = all."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    models: frozenset[str] | None = None
    in_flight_max: int | None = None  # requests under way at one time; None = as the gateway's settings say


class TooManyKeys(Exception):
    """The organisation has as many valid keys as it may have."""


class MayDoMore(Exception):
    """The key is not for the one that asks, which may do less."""


class Secret(msgspec.Struct, frozen=True):
    """What is kept of a key's text."""

    digest: bytes
    prefix: str  # the first twelve characters
    last_four: str
    pepper_version: int = 1


def secret_of(key_text: str, pepper: Pepper) -> Secret:
    """What is kept of a new key: its digest under the newest pepper."""
    return Secret(pepper.digest(key_text), *shown(key_text), pepper.version)


class ListedKey(msgspec.Struct, frozen=True):
    """A key as its owner sees it."""

    id: bytes
    name: str
    scope: Scope
    limits: Limits
    created_at: datetime
    valid_until: datetime | None
    prefix: str
    last_four: str
    project_id: bytes | None
    budget_nanos: int | None
    period: str | None


async def create_api_key(
    pool: Pool,
    *,
    api_key_id: bytes,
    org_id: bytes,
    secret: Secret,
    name: str,
    scope: Scope,
    limits: Limits,
    keys_max: int | None = None,
    project_id: bytes | None = None,
    budget: Budget | None = None,
) -> None:
    """Make a key, unless the organisation has `keys_max` valid ones. Raises TooManyKeys, LookupError for an unknown
    organisation, or project of it. `pool` is the app's, here and below."""
    async with pool.system() as connection:
        version = await take_version(connection, Followed.API_KEYS)
        if (await connection.execute("SELECT FROM org WHERE id = %s", (UUID(bytes=org_id),))).rowcount == 0:
            raise LookupError("no such organisation")
        owners = {"id": None if project_id is None else UUID(bytes=project_id), "org_id": UUID(bytes=org_id)}
        found = await connection.execute("SELECT FROM project WHERE id = %(id)s AND org_id = %(org_id)s", owners)
        if project_id is not None and not found.rowcount:
            raise LookupError("no such project")
        if keys_max is not None:
            # Exact, since the version is taken under a lock that makers of keys hold one after the other.
            counted = await (await connection.execute(COUNT_VALID, (UUID(bytes=org_id),))).fetchone()
            if counted is not None and counted[0] >= keys_max:
                raise TooManyKeys
        await connection.execute(
            CREATE,
            {
                "id": UUID(bytes=api_key_id),
                "org_id": UUID(bytes=org_id),
                "name": name,
                "scope": scope.value,
                "requests_per_minute": limits.requests_per_minute,
                "tokens_per_minute": limits.tokens_per_minute,
                "models": None if limits.models is None else sorted(limits.models),
                "version": version,
                "project_id": owners["id"],
                "in_flight_max": limits.in_flight_max,
            },
        )
        if budget is not None:
            await add_budget(connection, budget, owner_id=api_key_id, org_id=org_id, owner_kind="key")
        await connection.execute(ADD_DIGEST, _digest_parameters(api_key_id, secret))


async def list_api_keys(pool: Pool, org_id: bytes) -> list[ListedKey]:
    """The organisation's keys, revoked ones too, oldest first."""
    async with pool.tenant(org_id) as connection:
        rows = await (await connection.execute(LIST, {"org_id": UUID(bytes=org_id)})).fetchall()
    return [
        ListedKey(
            row[0].bytes,
            row[1],
            Scope(row[2]),
            Limits(row[3], row[4], _models(row[5]), row[13]),
            created_at=row[6],
            valid_until=row[7],
            prefix=row[8],
            last_four=row[9],
            project_id=None if row[10] is None else row[10].bytes,
            budget_nanos=row[11],
            period=row[12],
        )
        for row in rows
    ]


async def revoke_api_key(pool: Pool, api_key_id: bytes, *, org_id: bytes | None = None) -> None:
    """End a key and every text of it at once; again without effect. Raises LookupError for an unknown one, or one of
    another organisation than the given."""
    async with pool.system() as connection:
        parameters = {
            "id": UUID(bytes=api_key_id),
            "org_id": None if org_id is None else UUID(bytes=org_id),
            "version": await take_version(connection, Followed.API_KEYS),
        }
        if not (await connection.execute(REVOKE, parameters)).rowcount:
            known = await connection.execute(KNOWN, parameters)
            if not known.rowcount:
                raise LookupError(text("key", api_key_id))


async def rotate_api_key(pool: Pool, api_key_id: bytes, secret: Secret, *, asker: ApiKey | None = None) -> datetime:
    """Give a key a new text; until when the one before it stays valid. Raises LookupError for an unknown or revoked
    key. `asker` is the key that asks for it and will have the text, None for the operator; with it also LookupError for
    a key of another organisation, and MayDoMore for one that may do anything which `asker` may not."""
    async with pool.system() as connection:
        parameters = {
            **_digest_parameters(api_key_id, secret),
            "org_id": None if asker is None else UUID(bytes=asker.org_id),
            "version": await take_version(connection, Followed.API_KEYS),
            "grace_s": ROTATION_GRACE_S,
        }
        found = await (await connection.execute(ROTATE, parameters)).fetchone()
        if found is None:
            raise LookupError(text("key", api_key_id))
        if asker is not None and asker.id != api_key_id:
            project_id, requests, tokens, models, in_flight = found
            limits = Limits(requests, tokens, _models(models), in_flight)
            if not _covers(asker, None if project_id is None else project_id.bytes, limits):
                raise MayDoMore  # which takes the update back
        row = await (await connection.execute(END_DIGESTS, parameters)).fetchone()
        await connection.execute(ADD_DIGEST, parameters)
    assert row is not None
    valid_until: datetime = row[0]
    return valid_until


def _covers(asker: ApiKey, project_id: bytes | None, limits: Limits) -> bool:
    """Whether another key, of that project and with those limits, may do nothing that `asker` may not. A budget of its
    own is what no other key spends from."""
    if asker.has_own_budget or asker.project_id not in (None, project_id):
        return False
    if asker.models is not None and (limits.models is None or not limits.models <= asker.models):
        return False
    pairs = (
        (limits.requests_per_minute, asker.requests_per_minute),
        (limits.tokens_per_minute, asker.tokens_per_minute),
        (limits.in_flight_max, asker.in_flight_max),
    )
    return all(own is None or (limit is not None and limit <= own) for limit, own in pairs)


async def api_keys_since(pool: Pool, version: int) -> tuple[Sequence[ApiKey], int]:
    """Every text of every key made or changed after `version`, and the newest version. From 0: those still valid."""
    async with pool.system(is_view=True) as connection:
        rows = await (await connection.execute(SINCE, {"version": version})).fetchall()
        newest = await (await connection.execute(NEWEST)).fetchone()
    assert newest is not None
    keys = [
        ApiKey(
            row[0].bytes,
            row[1].bytes,
            row[2],
            Scope(row[3]),
            row[4],
            row[5],
            _models(row[6]),
            row[7],
            None if row[8] is None else row[8].bytes,
            in_flight_max=row[11],
            org_in_flight_max=row[12],
            chain=_chain(row[9], row[10]),
        )
        for row in rows
    ]
    return keys, max(version, newest[0])


async def are_any(pool: Pool) -> bool:
    """Whether this database ever had a key, of whatever organisation. `pool` is the app's."""
    async with pool.system() as connection:
        row = await (await connection.execute(ARE_ANY)).fetchone()
    return row == (True,)


def _chain(owners: list[UUID] | None, periods: list[str]) -> Chain | None:
    if owners is None:
        return None
    ids = tuple(dict.fromkeys(owner.bytes for owner in owners))
    # Named by all that it consists of: with another budget in it, it is another chain, and has a lease of its own.
    name = blake2b(b"".join(ids) + "".join(periods).encode(), digest_size=16).digest()
    return Chain(name, ids, tuple(Period(period) for period in periods))


def _models(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _digest_parameters(api_key_id: bytes, secret: Secret) -> dict[str, object]:
    return {"id": UUID(bytes=api_key_id), **msgspec.structs.asdict(secret)}
