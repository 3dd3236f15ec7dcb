"""Whether a standby was promoted and the nodes have not told all of what they know: no money leaves a wallet then.

See `storage.promotion`.
"""

from __future__ import annotations

from psycopg import AsyncConnection

IS_UNPRESENTED = "EXISTS (SELECT FROM ledger_timeline WHERE timeline IS DISTINCT FROM current_timeline())"


async def is_unpresented(connection: AsyncConnection) -> bool:
    """Of the books as a whole."""
    return await (await connection.execute(f"SELECT {IS_UNPRESENTED}")).fetchone() == (True,)
