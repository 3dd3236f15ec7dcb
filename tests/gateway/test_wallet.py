"""Holds from memory, leases from the ledger: nothing overspent, nobody refused while the money is there."""

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.disk import ORG, Disk, attempt, closed, opened, sync_at_once, write
from tests.gateway.fake_ledger import Connection, FakeLedger
from waypost.gateway.journal import Journal, JournalFull
from waypost.gateway.ports import LedgerUnavailable
from waypost.gateway.recovery import read_dir
from waypost.gateway.settler import Settler
from waypost.gateway.wallet import CONTACT_S, IDLE_S, Hold, NodeIdentity, Wallet
from waypost.kit.ids import Ids
from waypost.kit.money import NANOS_PER_USD
from waypost.ledger.record import ClosedAttempt, Grant, InsufficientFunds, NodeSuperseded
from waypost.tenancy.budget import Chain, Period

CENT = NANOS_PER_USD // 100


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def unix_ns(self) -> int:
        return int(self.now_s * 1e9)

    def monotonic_s(self) -> float:
        return self.now_s


class Desk:
    """One node with a wallet, its journal on disk and a ledger in memory."""

    def __init__(
        self, directory: Path, ledger: FakeLedger, *, nodes: int = 1, name: bytes = b"node-number-one!"
    ) -> None:
        self.directory = directory / name.decode()
        self.ledger = ledger
        ledger.epochs.setdefault(name, 1)
        self.connection = Connection(ledger, random.Random(1))
        self.clock = FakeClock()
        self.disk = Disk()
        self.refused: list[tuple[ClosedAttempt, type[Exception]]] = []
        self.journal = Journal.open_dir(self.directory, segment_bytes=64 << 10, files=self.disk)
        sync_at_once(self.journal)
        self.settler = Settler(self.connection, self.journal, self.clock, on_refused=self._refused)
        node = NodeIdentity(name, 1, nodes)
        self.wallet = Wallet(self.connection, self.journal, Ids(), self.clock, node, self.settler)

    def _refused(self, attempt: ClosedAttempt, error: Exception) -> None:
        self.refused.append((attempt, type(error)))

    def finish(self, hold: Hold, charge: int) -> ClosedAttempt:
        record = opened(hold=hold.amount_nanos, lease=hold.lease_id)
        one = ClosedAttempt(record, closed(record, charge=charge))
        write(self.journal, one)
        self.settler.add(one)
        self.wallet.settle(hold, charge)
        return one


def funded(nanos: int) -> FakeLedger:
    ledger = FakeLedger()
    ledger.wallets[ORG] = nanos
    ledger.topups["first"] = (ORG, nanos)
    return ledger


async def test_a_hold_waits_for_the_ledger_once_and_then_comes_from_memory(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    assert desk.wallet.hold(ORG, CENT) is None

    first = await desk.wallet.hold_with_grant(ORG, CENT)
    second = desk.wallet.hold(ORG, CENT)

    assert second is not None
    assert second.lease_id == first.lease_id
    assert desk.ledger.calls == ["grant"]
    assert desk.wallet.held_nanos == 2 * CENT
    desk.finish(first, CENT // 2)
    desk.wallet.release(second)
    assert desk.wallet.held_nanos == 0
    assert desk.wallet.granted_nanos == 5 * CENT - CENT // 2


async def test_a_hold_resolves_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(NANOS_PER_USD))
    hold = await desk.wallet.hold_with_grant(ORG, CENT)
    desk.wallet.release(hold)

    with pytest.raises(AssertionError):
        desk.wallet.settle(hold, 1)


async def test_a_grant_is_in_the_journal_before_the_ledger_is_asked(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(NANOS_PER_USD))
    desk.connection.grant = _unavailable  # type: ignore[method-assign]

    with pytest.raises(LedgerUnavailable):
        await desk.wallet.hold_with_grant(ORG, CENT)
    [grant] = read_dir(desk.directory)
    del desk.connection.grant
    hold = await desk.wallet.hold_with_grant(ORG, CENT)

    assert grant == Grant(hold.lease_id, ORG, 5 * CENT)


async def test_a_crowd_of_callers_shares_one_grant(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(100 * NANOS_PER_USD))

    holds = await asyncio.gather(*(desk.wallet.hold_with_grant(ORG, CENT) for _ in range(100)))

    assert desk.wallet.held_nanos == 100 * CENT
    assert len({hold.lease_id for hold in holds}) == 1
    assert len(desk.ledger.calls) <= 2


async def test_a_free_request_is_recorded_on_a_lease_too(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(NANOS_PER_USD))

    hold = await desk.wallet.hold_with_grant(ORG, 0)

    assert hold.amount_nanos == 1
    assert hold.lease_id in desk.ledger.leases


async def test_the_last_cent_can_be_spent(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(7 * CENT))

    first = await desk.wallet.hold_with_grant(ORG, 3 * CENT)
    second = await desk.wallet.hold_with_grant(ORG, 4 * CENT)

    with pytest.raises(InsufficientFunds) as refusal:
        await desk.wallet.hold_with_grant(ORG, 1)
    assert refusal.value.available_nanos == 0
    desk.finish(first, CENT)
    third = await desk.wallet.hold_with_grant(ORG, 2 * CENT)
    for hold in (second, third):
        desk.wallet.release(hold)


async def test_a_refusal_tells_what_one_request_could_have(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(7 * CENT))
    hold = await desk.wallet.hold_with_grant(ORG, 3 * CENT)
    desk.finish(hold, CENT)

    with pytest.raises(InsufficientFunds) as refusal:
        await desk.wallet.hold_with_grant(ORG, 9 * CENT)

    assert refusal.value.available_nanos == 6 * CENT
    assert (await desk.wallet.hold_with_grant(ORG, 6 * CENT)).is_open


async def test_a_small_request_is_not_refused_for_the_dear_one_beside_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(7 * CENT))

    dear, small = await asyncio.gather(
        desk.wallet.hold_with_grant(ORG, 9 * CENT), desk.wallet.hold_with_grant(ORG, CENT), return_exceptions=True
    )

    assert isinstance(dear, InsufficientFunds)
    assert isinstance(small, Hold)


async def test_a_refusal_older_than_a_credit_does_not_count(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(CENT))
    early = asyncio.ensure_future(desk.wallet.hold_with_grant(ORG, 5 * CENT))
    await desk.connection.first_answer.wait()
    assert not early.done()

    await desk.ledger.topup(org_id=ORG, amount_nanos=NANOS_PER_USD, reference="second")
    late = await desk.wallet.hold_with_grant(ORG, 5 * CENT)

    assert late.is_open
    await asyncio.gather(early, return_exceptions=True)


async def test_an_unknown_organisation_is_told_apart_from_a_poor_one(tmp_path: Path) -> None:
    desk = Desk(tmp_path, FakeLedger())

    with pytest.raises(LookupError):
        await desk.wallet.hold_with_grant(b"nobody-at-all-.-", CENT)


async def test_a_lost_reply_takes_the_money_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(NANOS_PER_USD))
    ledger = desk.ledger

    async def lose_reply(**arguments: object) -> int:
        await ledger.grant(**arguments)  # type: ignore[arg-type]  # passed on as they came
        raise LedgerUnavailable

    desk.connection.grant = lose_reply  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable):
        await desk.wallet.hold_with_grant(ORG, CENT)
    del desk.connection.grant

    await desk.wallet.hold_with_grant(ORG, CENT)

    assert len(ledger.leases) == 1
    assert ledger.wallets[ORG] == NANOS_PER_USD - 5 * CENT
    ledger.check_sums()


async def test_a_grant_whose_answer_was_lost_goes_back_when_nothing_is_held_any_more(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(NANOS_PER_USD))
    ledger = desk.ledger

    async def lose_reply(**arguments: object) -> int:
        await ledger.grant(**arguments)  # type: ignore[arg-type]  # passed on as they came
        raise LedgerUnavailable

    desk.connection.grant = lose_reply  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable):
        await desk.wallet.hold_with_grant(ORG, CENT)
    del desk.connection.grant
    desk.connection.is_up = False
    desk.clock.now_s += CONTACT_S + 1
    await desk.wallet.beat()  # nobody was reached for so long that what is held may be given away

    desk.connection.is_up = True
    await desk.wallet.beat()

    assert ledger.wallets[ORG] == NANOS_PER_USD
    assert await desk.wallet.close_all() == 0
    ledger.check_sums()


async def test_a_caller_who_leaves_does_not_take_the_grant_with_him(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(NANOS_PER_USD))
    caller = asyncio.ensure_future(desk.wallet.hold_with_grant(ORG, CENT))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)

    hold = await desk.wallet.hold_with_grant(ORG, CENT)

    assert desk.ledger.calls == ["grant"]
    assert desk.wallet.held_nanos == hold.amount_nanos


async def test_with_the_ledger_away_a_lease_goes_on_serving(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    desk.wallet.release(await desk.wallet.hold_with_grant(ORG, CENT))
    desk.connection.is_up = False

    for _ in range(4):
        hold = desk.wallet.hold(ORG, CENT)
        assert hold is not None
        desk.finish(hold, CENT)
        await desk.wallet.beat()
    assert not desk.wallet.is_ledger_reachable
    with pytest.raises(LedgerUnavailable):
        await desk.wallet.hold_with_grant(ORG, 2 * CENT)

    desk.connection.is_up = True
    assert (await desk.wallet.hold_with_grant(ORG, 2 * CENT)).is_open


async def test_a_lease_is_raised_before_it_runs_out(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    desk.finish(await desk.wallet.hold_with_grant(ORG, CENT), CENT)
    for _ in range(3):
        hold = desk.wallet.hold(ORG, CENT)
        assert hold is not None
        desk.finish(hold, CENT)

    await desk.wallet.refill()

    assert desk.ledger.calls == ["grant", "extend"]
    assert desk.wallet.granted_nanos >= 5 * CENT


async def test_a_busy_organisation_gets_a_lease_for_ten_seconds(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(1000 * NANOS_PER_USD))
    for _ in range(30):
        for _ in range(4):
            desk.finish(await desk.wallet.hold_with_grant(ORG, 2 * CENT), 2 * CENT)
        desk.clock.now_s += 1
        await desk.wallet.refill()
        await desk.settler.book()
        await desk.wallet.beat()

    calls = len(desk.ledger.calls)
    for _ in range(4):
        assert desk.wallet.hold(ORG, 2 * CENT) is not None

    assert len(desk.ledger.calls) == calls
    assert desk.wallet.granted_nanos >= 40 * CENT


async def test_idle_money_goes_back_when_all_of_it_is_booked(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    desk.finish(await desk.wallet.hold_with_grant(ORG, CENT), CENT)
    desk.clock.now_s += IDLE_S

    await desk.wallet.beat()
    assert "close" not in desk.ledger.calls  # not booked yet
    await desk.settler.book()
    await desk.wallet.beat()

    assert desk.ledger.wallets[ORG] == 10 * NANOS_PER_USD - CENT
    assert desk.wallet.leases == 0
    desk.ledger.check_sums()
    assert (await desk.wallet.hold_with_grant(ORG, CENT)).is_open


async def test_near_the_end_of_the_money_a_node_keeps_nothing_that_another_may_need(tmp_path: Path) -> None:
    ledger = funded(12 * CENT)
    one = Desk(tmp_path, ledger, nodes=2)
    other = Desk(tmp_path, ledger, nodes=2, name=b"node-number-two!")

    one.finish(await one.wallet.hold_with_grant(ORG, 10 * CENT), CENT)
    with pytest.raises(InsufficientFunds):
        await other.wallet.hold_with_grant(ORG, 10 * CENT)
    await one.settler.book()
    await one.wallet.beat()

    assert (await other.wallet.hold_with_grant(ORG, 10 * CENT)).is_open
    ledger.check_sums()


async def test_heartbeats_tell_what_is_held(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    hold = await desk.wallet.hold_with_grant(ORG, CENT)

    await desk.wallet.beat()

    assert (await desk.ledger.snapshot(ORG)).held_nanos == CENT
    assert (await desk.ledger.snapshot(ORG)).available_nanos == 10 * NANOS_PER_USD - CENT
    desk.wallet.release(hold)
    await desk.wallet.beat()
    assert (await desk.ledger.snapshot(ORG)).held_nanos == 0


async def test_at_the_end_every_lease_goes_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    held = await desk.wallet.hold_with_grant(ORG, CENT)
    assert await desk.wallet.close_all() == 1  # a hold is open

    desk.finish(held, CENT)
    await desk.settler.book()
    assert await desk.wallet.close_all() == 0

    assert desk.ledger.wallets[ORG] == 10 * NANOS_PER_USD - CENT
    desk.ledger.check_sums()


async def test_without_a_journal_there_is_no_grant(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    desk.disk.is_refusing_writes = True

    with pytest.raises(JournalFull):
        await desk.wallet.hold_with_grant(ORG, CENT)
    assert desk.ledger.calls == []

    desk.disk.is_refusing_writes = False
    desk.journal.maintain()
    write(desk.journal, attempt())
    assert (await desk.wallet.hold_with_grant(ORG, CENT)).is_open


async def test_a_lease_that_the_books_do_not_know_is_let_go_and_the_caller_gets_another(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    running = await desk.wallet.hold_with_grant(ORG, CENT)
    lost = running.lease_id
    desk.ledger.leases.clear()  # restored from a copy
    desk.ledger.wallets[ORG] = 10 * NANOS_PER_USD

    hold = await desk.wallet.hold_with_grant(ORG, NANOS_PER_USD)

    assert hold.lease_id != lost
    desk.wallet.settle(running, CENT)
    desk.wallet.release(hold)
    assert desk.wallet.holds == 0


async def test_an_orphaned_lease_is_held_on_no_more_and_goes_back_when_its_holds_are_over(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    running = await desk.wallet.hold_with_grant(ORG, NANOS_PER_USD)
    desk.ledger.orphan(b"node-number-one!")  # it was paused for a minute
    await desk.wallet.beat()

    hold = await desk.wallet.hold_with_grant(ORG, CENT)

    assert hold.lease_id != running.lease_id
    desk.finish(running, CENT)
    desk.wallet.release(hold)
    await desk.settler.book()
    assert await desk.wallet.close_all() == 0
    desk.ledger.check_sums()
    assert desk.ledger.wallets[ORG] == 10 * NANOS_PER_USD - CENT


async def test_two_nodes_share_a_balance_to_the_last_hold(tmp_path: Path) -> None:
    ledger = funded(100 * CENT)
    nodes = [Desk(tmp_path, ledger, nodes=2, name=name) for name in (b"node-number-one!", b"node-number-two!")]
    keeping = [asyncio.ensure_future(node.wallet.run()) for node in nodes]
    outcomes = await asyncio.gather(
        *(nodes[number % 2].wallet.hold_with_grant(ORG, CENT) for number in range(110)), return_exceptions=True
    )
    for task in keeping:
        task.cancel()
    await asyncio.gather(*keeping, return_exceptions=True)
    assert sum(isinstance(outcome, Hold) for outcome in outcomes) == 100
    assert sum(isinstance(outcome, InsufficientFunds) for outcome in outcomes) == 10
    ledger.check_sums()


async def test_what_is_free_goes_to_the_node_that_needs_it(tmp_path: Path) -> None:
    ledger = funded(10 * NANOS_PER_USD)
    first, second = (Desk(tmp_path, ledger, nodes=2, name=name) for name in (b"node-number-one!", b"node-number-two!"))
    running = await first.wallet.hold_with_grant(ORG, NANOS_PER_USD)
    spare = await first.wallet.hold_with_grant(ORG, 8 * NANOS_PER_USD)
    first.wallet.release(spare)
    keeping = asyncio.ensure_future(first.wallet.run())

    hold = await second.wallet.hold_with_grant(ORG, 9 * NANOS_PER_USD)

    assert hold.is_open
    assert running.is_open
    with pytest.raises(InsufficientFunds):
        await second.wallet.hold_with_grant(ORG, CENT)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    ledger.check_sums()


async def test_keys_with_a_budget_have_a_lease_of_their_own_and_are_told_which_budget_is_used_up(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    key, project = b"key-number-one-.", b"project-number-1"
    desk.ledger.budgets = {key: [3 * CENT, 0], project: [100 * CENT, 0]}
    chain = Chain(key, (project, key), (Period.LIFETIME, Period.DAY))
    plain = await desk.wallet.hold_with_grant(ORG, CENT)

    holds = [await desk.wallet.hold_with_grant(ORG, CENT, chain) for _ in range(3)]
    with pytest.raises(InsufficientFunds) as refusal:
        await desk.wallet.hold_with_grant(ORG, CENT, chain)

    assert refusal.value.budget is not None
    assert len({hold.lease_id for hold in holds}) == 1
    assert plain.lease_id != holds[0].lease_id
    for hold in (plain, *holds):
        desk.wallet.release(hold)
    assert await desk.wallet.close_all() == 0
    desk.ledger.check_sums()
    assert desk.ledger.budgets == {key: [3 * CENT, 0], project: [100 * CENT, 0]}


async def test_at_the_end_of_a_window_a_new_lease_is_cut_and_the_old_one_goes_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    chain = Chain(b"key-number-one-.", (b"key-number-one-.",), (Period.DAY,))
    before = await desk.wallet.hold_with_grant(ORG, CENT, chain)
    desk.clock.now_s += 86_400
    assert desk.wallet.hold(ORG, CENT, chain) is None

    after = await desk.wallet.hold_with_grant(ORG, CENT, chain)
    await desk.wallet.beat()

    assert after.lease_id != before.lease_id
    first_id, row = before.lease_id, desk.ledger.leases[before.lease_id]
    assert (row.state, row.rest) == ("DRAINING", CENT)
    desk.wallet.release(before)
    await desk.wallet.beat()
    assert desk.ledger.leases[first_id].is_closed


async def test_a_node_whose_place_was_taken_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    node = NodeIdentity(b"node-number-one!", 1)
    wallet = Wallet(
        desk.connection,
        desk.journal,
        Ids(),
        desk.clock,
        node,
        desk.settler,
        on_superseded=lambda: told.append("superseded"),
    )
    await desk.ledger.register_node(node.node_id)

    with pytest.raises(NodeSuperseded):
        await wallet.hold_with_grant(ORG, CENT)

    assert told == ["superseded"]


async def _unavailable(**_: object) -> int:
    raise LedgerUnavailable


async def test_a_hold_that_ends_while_others_are_asked_makes_room_and_nothing_more_is_taken(tmp_path: Path) -> None:
    ledger = funded(10 * CENT)
    asking, other = Desk(tmp_path, ledger), Desk(tmp_path, ledger, name=b"node-number-two!")
    first = await asking.wallet.hold_with_grant(ORG, 5 * CENT)
    await other.wallet.hold_with_grant(ORG, 5 * CENT)

    async def pause() -> None:
        if first.is_open:
            asking.wallet.release(first)

    asking.wallet._pause = pause
    second = await asking.wallet.hold_with_grant(ORG, 3 * CENT)

    assert second.amount_nanos == 3 * CENT
    assert asking.wallet.granted_nanos == 5 * CENT


async def test_what_goes_back_was_freed_by_records_that_survive_a_loss_of_power(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(NANOS_PER_USD))
    hold = await desk.wallet.hold_with_grant(ORG, 50 * CENT)
    lease = desk.ledger.leases[hold.lease_id]
    desk.finish(hold, CENT)
    written: list[bool] = []
    release = desk.connection.release

    async def look(**words: Any) -> None:
        written.append(desk.disk.syncs > 0)
        await release(**words)

    desk.connection.release = look  # type: ignore[method-assign]
    lease.is_recalled = True
    desk.disk.syncs = 0
    await desk.wallet.beat()

    assert written == [True]


async def test_nothing_goes_back_on_a_disk_that_has_failed(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(NANOS_PER_USD))
    hold = await desk.wallet.hold_with_grant(ORG, 50 * CENT)
    lease = desk.ledger.leases[hold.lease_id]
    desk.finish(hold, CENT)
    lease.is_recalled = True
    desk.disk.is_broken = True
    await desk.wallet.beat()

    assert desk.journal.is_failed
    assert "release" not in desk.ledger.calls


async def test_a_disk_that_stalls_keeps_no_money_and_no_heartbeat_waiting(tmp_path: Path) -> None:
    desk = Desk(tmp_path, funded(10 * NANOS_PER_USD))
    stalled = threading.Event()
    desk.disk.fdatasync = lambda _: stalled.wait(60)  # type: ignore[assignment, method-assign]
    del desk.journal._keeper.hurry  # its own thread
    syncing = asyncio.ensure_future(desk.journal.run())
    hold = await desk.wallet.hold_with_grant(ORG, 50 * CENT)
    lease = desk.ledger.leases[hold.lease_id]
    desk.finish(hold, CENT)
    lease.is_recalled = True
    try:
        async with asyncio.timeout(20):
            await desk.wallet.beat()
            assert "release" not in desk.ledger.calls
            # What was not told to the books is still to be spent here.
            spare = await desk.wallet.hold_with_grant(ORG, 9 * NANOS_PER_USD)
            desk.wallet.release(spare)
            stalled.set()
            while "release" not in desk.ledger.calls:
                await desk.wallet.beat()
    finally:
        stalled.set()
        syncing.cancel()
