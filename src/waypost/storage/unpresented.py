"""Whether a standby was promoted and the nodes have not told all of what they know: no money leaves a wallet then.

See `storage.promotion`.
"""

from __future__ import annotations

from psycopg import AsyncConnection

IS_UNPRESENTED = "EXISTS (SELECT FROM ledger_timeline WHERE timeline IS DISTINCT FROM current_timeline())"

CURRENT_TIMELINE = "SELECT current_timeline()"


async def is_unpresented(connection: AsyncConnection) -> bool:
    """Of the books as a whole."""
    return await (await connection.execute(f"SELECT {IS_UNPRESENTED}")).fetchone() == (True,)


async def current_timeline(connection: AsyncConnection) -> int | None:
    """Where the server writes now; None when it does not tell."""
    row = await (await connection.execute(CURRENT_TIMELINE)).fetchone()
    return None if row is None else row[0]
