"""Mistakes in what a promoted server is told of what it lost."""

from __future__ import annotations

from tests.seeded_bugs.planting import Bug

_BOOKS = ("tests/storage/test_promotion.py", "-n", "0")
_GATEWAYS = ("tests/gateway/test_presenting.py", "-n", "0")

BUGS_OF_PROMOTION = (
    Bug(
        "money is granted before the nodes have told what was lost",
        "storage/leases.py",
        "       AND NOT {IS_UNPRESENTED}\n       AND NOT EXISTS (SELECT FROM lease",
        "       AND NOT EXISTS (SELECT FROM lease",
        _BOOKS,
    ),
    Bug(
        "a lease is raised before the nodes have told what was lost",
        "storage/leases.py",
        "       AND NOT is_suspended\n       AND NOT {IS_UNPRESENTED}\n       AND NOT EXISTS (SELECT FROM chain",
        "       AND NOT is_suspended\n       AND NOT EXISTS (SELECT FROM chain",
        _BOOKS,
    ),
    Bug(
        "one node that has presented itself speaks for all",
        "storage/promotion.py",
        "WHERE retired_at IS NULL AND node.timeline IS DISTINCT",
        "WHERE retired_at IS NOT NULL AND node.timeline IS DISTINCT",
        _BOOKS,
    ),
    Bug(
        "a closed lease takes what it has given back once more",
        "storage/promotion.py",
        "state <> 'CLOSED' AS is_open,\n           CASE WHEN state = 'CLOSED' THEN",
        "true AS is_open,\n           CASE WHEN state IS NULL THEN",
        _BOOKS,
    ),
    Bug(
        "the house bears what a lost lease was charged",
        "storage/settlement.py",
        "    if standing is not None and not await _is_presented(connection, standing):\n",
        "    if standing is None and connection.closed:\n",
        _BOOKS,
    ),
    Bug(
        "servers are told apart by the number of their timeline alone",
        "storage/settlement.py",
        "WHERE moved_at IS NOT DISTINCT FROM %(noticed_at)s",
        "WHERE moved_at IS NOT DISTINCT FROM %(noticed_at)s OR true",
        _BOOKS,
    ),
    Bug(
        "a row is charged to a lost lease of another organisation",
        "storage/settlement.py",
        " AND other.org_id <> %(org_id)s",
        " AND other.org_id IS NULL",
        _BOOKS,
    ),
    Bug(
        "leases at hand are not presented",
        "gateway/presenting.py",
        "            if lease.granted_nanos:  #",
        "            if not lease.granted_nanos:  #",
        _GATEWAYS,
    ),
    Bug(
        "what was booked is not booked again",
        "gateway/presenting.py",
        "            await self._book_again(this.since_ms)\n",
        "            await self._book_again(this.since_ms * 2)\n",
        _GATEWAYS,
    ),
    Bug(
        "a lease that went back stays where the server has lost that",
        "gateway/presenting.py",
        "            await self._give_back_forgotten()\n",
        "",
        _GATEWAYS,
    ),
    Bug(
        "a wallet pays for a lease while others have not given back what it is made of",
        "gateway/presenting.py",
        "        may_draw = self._is_whole or await self._ledger.resume_granting()\n",
        "        may_draw = self._is_whole = True\n",
        _GATEWAYS,
    ),
    Bug(
        "a start after a promotion reads what is not booked alone",
        "gateway/recovery.py",
        "_without_late_acks(records) if is_whole else records",
        "records if is_whole else records",
        _GATEWAYS,
    ),
)
