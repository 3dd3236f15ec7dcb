"""What an operator should be told of a gateway's books, once each time it begins."""

from __future__ import annotations

import asyncio

from waypost.gateway.following import Following
from waypost.gateway.journal import Journal
from waypost.gateway.settler import Settler
from waypost.telemetry.events import DatabaseLost, JournalRunningOut, SettlingDelayed, emit

SETTLE_LATE_S = 5.0  # age of the oldest attempt that is not booked
_LOOK_S = 1.0  # between looks


def is_reachable(settler: Settler, following: Following) -> bool:
    """Whether the database is."""
    return following.is_database_reachable and settler.is_ledger_reachable


async def tell_of_delays(journal: Journal, settler: Settler, following: Following, *, process: str) -> None:
    """Log that the database is away, bookings do not keep up, or the journal runs out of room. Until cancelled."""
    was_reachable, was_in_time, had_room = True, True, True
    while True:
        await asyncio.sleep(_LOOK_S)
        can_reach, is_in_time = is_reachable(settler, following), settler.oldest_age_s <= SETTLE_LATE_S
        has_room = not journal.is_running_out
        if had_room and not has_room:
            emit(JournalRunningOut(process=process, backlog=settler.backlog))
        if was_reachable and not can_reach:
            emit(DatabaseLost(process=process))
        if was_in_time and not is_in_time:
            emit(SettlingDelayed(backlog=settler.backlog, age_s=round(settler.oldest_age_s, 1)))
        was_reachable, was_in_time, had_room = can_reach, is_in_time, has_room
