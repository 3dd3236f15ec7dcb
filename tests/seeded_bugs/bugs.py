"""The planted mistakes. Those of the field (`one-api` and others) are among them, and those of the reference model.

A place that is not found any more has moved: find it again, or say what the mistake would be now.
"""

from __future__ import annotations

from tests.seeded_bugs.bugs_of_executions import BUGS_OF_EXECUTIONS
from tests.seeded_bugs.bugs_of_promotion import BUGS_OF_PROMOTION
from tests.seeded_bugs.planting import Bug

_SIMULATION = ("tests/simulation/test_real.py", "-n", "0")
_ONE_SIMULATION = (*_SIMULATION, "-k", "[0]")
_LEDGER = ("tests/storage/test_ledger.py", "-n", "0")
_SETTLEMENT = ("tests/storage/test_settlement.py", "-n", "0")
_BILLS = ("tests/storage/test_provider_bills.py", "-n", "0")
_WALLET = ("tests/gateway/test_wallet.py", "-n", "0")
_METERING = ("tests/metering", "-n", "0")
_REPLAY = ("tests/ledger/test_replay.py", "-n", "0")
_CRASH = ("tests/e2e/test_crash.py", "-n", "0", "-k", "11")
_MONEY = ("tests/e2e/test_money.py", "-n", "0")

_OF_THE_JOURNAL = (
    Bug(
        "send before journal",
        "gateway/books.py",
        "            self._journal.open(record)\n",
        "            if record.attempt_number > 1:\n                self._journal.open(record)\n",
        _CRASH,
    ),
    Bug(
        "an end is acknowledged before it is booked",
        "gateway/settler.py",
        "        try:\n            await self._ledger.settle_batch(batch)\n",
        "        self._journal.acknowledge(batch)\n        try:\n            await self._ledger.settle_batch(batch)\n",
        _ONE_SIMULATION,
    ),
    Bug(
        "a batch leaves the queue although its outcome is unknown",
        "gateway/settler.py",
        "        except LedgerUnavailable:\n            raise\n",
        "        except LedgerUnavailable:\n            self._leave_queue(len(batch))\n            raise\n",
        _ONE_SIMULATION,
    ),
    Bug(
        "an acknowledged attempt is forgotten before its execution ended",
        "ledger/replay.py",
        "    if _is_ended(execution) and all(one.is_acknowledged for one in execution.values()):\n",
        "    if all(one.is_acknowledged for one in execution.values()):\n",
        _REPLAY,
    ),
    Bug(
        "a crash costs nothing",
        "ledger/replay.py",
        "        cogs_nanos=opened.cost_bound_nanos,\n",
        "        cogs_nanos=0,\n",
        _REPLAY,
    ),
    Bug(
        "a crash charges more than the hold",
        "ledger/replay.py",
        "min(progress.charge_nanos, attempt.hold_nanos)",
        "progress.charge_nanos",
        _REPLAY,
    ),
    Bug(
        "recovery knows nothing of extensions",
        "ledger/replay.py",
        "                self.hold_nanos = record.hold_nanos\n",
        "                pass\n",
        _REPLAY,
    ),
    Bug(
        "a second close changes the amounts",
        "ledger/replay.py",
        "replace(first, is_final=True,",
        "replace(later, is_final=True,",
        _REPLAY,
    ),
    Bug(
        "a checksum is not looked at",
        "ledger/journal_format.py",
        "    return end if crc32(data[at + _FRAME_BYTES : end]) == checksum else None\n",
        "    return end if checksum else None\n",
        ("tests/ledger/test_journal_format.py", "-n", "0"),
    ),
    Bug(
        "a failed sync is repeated",
        "gateway/journal_keeper.py",
        "                error = caught\n",
        "                continue\n",
        ("tests/gateway/test_journal_disk.py", "-n", "0"),
        hangs=True,
    ),
    Bug(
        "segments are deleted before all in them is booked",
        "gateway/journal.py",
        "        while self._segments[0] is not self._current and not self._segments[0].unfinished:\n",
        "        while self._segments[0] is not self._current:\n",
        ("tests/gateway/test_journal.py", "-n", "0"),
    ),
)

_OF_LEASES = (
    Bug(
        "unguarded grant",
        "storage/leases.py",
        "     WHERE available >= %(amount)s\n       AND NOT is_suspended\n       AND EXISTS (SELECT FROM node",
        "     WHERE NOT is_suspended\n       AND EXISTS (SELECT FROM node",
        _LEDGER,
    ),
    Bug(
        "a grant of an older epoch",
        "storage/leases.py",
        "       AND EXISTS (SELECT FROM node WHERE id = %(node_id)s AND epoch = %(node_epoch)s)\n",
        "",
        _LEDGER,
    ),
    Bug(
        "a repeated grant is taken again",
        "gateway/wallet.py",
        "        assert total >= lease.granted_nanos\n        lease.granted_nanos = total\n",
        "        lease.granted_nanos += total\n",
        _ONE_SIMULATION,
    ),
    Bug(
        "an unknown outcome is forgotten",
        "gateway/wallet.py",
        "        if account.asked_to is not None and account.lease is not None:\n            with",
        "        account.asked_to = None\n        if account.asked_to is not None:\n            with",
        _ONE_SIMULATION,
    ),
    Bug(
        "what is given back is spent until the answer comes",
        "ledger/lease.py",
        "        self.returned_nanos += self.free_nanos\n        return self.returned_nanos\n",
        "        return self.returned_nanos + self.free_nanos\n",
        _SIMULATION,
    ),
    Bug(
        "what is charged is not spent",
        "ledger/lease.py",
        "        self.spent_nanos += charge_nanos\n",
        "",
        _ONE_SIMULATION,
    ),
    Bug(
        "a hold looks past the other holds",
        "ledger/lease.py",
        "        if self.granted_nanos - self.returned_nanos - self.spent_nanos - self.held_nanos < amount_nanos:\n",
        "        if self.granted_nanos - self.returned_nanos - self.spent_nanos < amount_nanos:\n",
        _ONE_SIMULATION,
    ),
    Bug(
        "a release is added instead of set",
        "storage/leases.py",
        "least(coalesce(%(released)s, granted), granted - settled) - released) AS more",
        "least(coalesce(%(released)s, granted), granted - settled - released)) AS more",
        _LEDGER,
    ),
    Bug(
        "a lease goes back before its attempts are booked",
        "gateway/wallet.py",
        "            is_done = not draining.holds and self._settler.is_booked(draining.lease_id)\n",
        "            is_done = True\n",
        _WALLET,
    ),
    Bug(
        "orphan to available",
        "storage/orphans.py",
        "UPDATE wallet SET suspense = suspense + room FROM known",
        "UPDATE wallet SET available = available + room FROM known",
        _ONE_SIMULATION,
    ),
    Bug(
        "suspense returns at once",
        "storage/orphans.py",
        "WHEN state = 'ORPHANED' THEN 'expired'",
        "WHEN state <> 'CLOSED' THEN 'recovered'",
        _ONE_SIMULATION,
    ),
    Bug(
        "only the innermost budget counts",
        "storage/leases.py",
        "       AND NOT EXISTS (SELECT FROM chain WHERE room < %(amount)s)\n),\npaid AS (\n"
        "    UPDATE wallet SET available = wallet.available - %(amount)s",
        "       AND NOT EXISTS (SELECT FROM chain WHERE room < %(amount)s AND owner_kind = 'key')\n),\npaid AS (\n"
        "    UPDATE wallet SET available = wallet.available - %(amount)s",
        ("tests/storage/test_budgets.py", "-n", "0"),
    ),
    Bug(
        "a budget does not get back what a lease returns",
        "storage/leases.py",
        'taken AS ({take_from_windows("-more", "back")}),',
        'taken AS ({take_from_windows("0", "back")}),',
        _ONE_SIMULATION,
    ),
)

_OF_BOOKING = (
    Bug(
        "a month goes without its sums",
        "storage/retention.py",
        """            await connection.execute(sql.SQL(_KEEP[table]).format(rows=partition), {"below": below})\n""",
        "            pass\n",
        ("tests/storage/test_retention.py", "-n", "0"),
    ),
    Bug(
        "a month's second part takes the place of the first",
        "storage/retention.py",
        "   SET charge = kept.charge + excluded.charge, refunded",
        "   SET charge = excluded.charge, refunded",
        ("tests/storage/test_retention.py", "-n", "0"),
    ),
    Bug(
        "no dedup of settlements",
        "storage/settlement.py",
        'SETTLE_AGAIN = _settle(_UNITS, "ON CONFLICT DO NOTHING")\n',
        'SETTLE_AGAIN = _settle(_UNITS, "ON CONFLICT DO NOTHING").replace("DO NOTHING",'
        ' "(attempt_id) DO UPDATE SET charge = excluded.charge", 1)\n',
        _SETTLEMENT,
    ),
    Bug(
        "late rows are lost",
        "storage/settlement.py",
        "least(greatest(0, worth - room), suspended) AS from_suspense",
        "0::bigint AS from_suspense",
        _ONE_SIMULATION,
    ),
    Bug(
        "double refund",
        "storage/funding.py",
        "        ON CONFLICT (attempt_id, refund_key) DO NOTHING\n",
        "        ON CONFLICT (attempt_id, refund_key) DO UPDATE SET amount = refund.amount + excluded.amount\n",
        _LEDGER,
    ),
    Bug(
        "a payment is credited by every event",
        "storage/funding.py",
        "%(is_promo)s FROM locked\n        ON CONFLICT (reference) DO NOTHING\n",
        "%(is_promo)s FROM locked\n        ON CONFLICT (reference) DO UPDATE SET amount = excluded.amount\n",
        _LEDGER,
    ),
    Bug(
        "a long hold ends twice",
        "storage/long_holds.py",
        "     WHERE id = %(draw_id)s AND state = 'HELD'\n",
        "     WHERE id = %(draw_id)s\n",
        _ONE_SIMULATION,
    ),
    Bug(
        "a reconciliation posts again what it posted before",
        "storage/provider_bills.py",
        "    changes = {at: wanted.get(at, 0) - known.get(at, 0) for at in {**known, **wanted}}\n",
        "    changes = {at: wanted.get(at, 0) for at in {**known, **wanted}}\n",
        _BILLS,
    ),
    Bug(
        "a bill line serves two attempts",
        "ledger/reconciliation.py",
        "            taken.append((free.pop(place), line))\n",
        "            taken.append((free[place], line))\n",
        ("tests/ledger/test_reconciliation.py", "-n", "0"),
    ),
)

_OF_METERING = (
    Bug(
        "rounded down",
        "metering/price.py",
        "    return -(-(by_unit * _MS_PER_S + usage.duration_ms * prices.second) // DIVISOR)\n",
        "    return (by_unit * _MS_PER_S + usage.duration_ms * prices.second) // DIVISOR\n",
        _METERING,
    ),
    Bug(
        "hold is an estimate",
        "metering/estimate.py",
        "c.output_tokens_max * _output(c, row) for row in _reachable(c, prices)) // DIVISOR)\n",
        "c.output_tokens_max // 2 * _output(c, row) for row in _reachable(c, prices)) // DIVISOR)\n",
        _METERING,
    ),
    Bug(
        "cache reads are counted twice",
        "providers/openai_fields.py",
        "    return Usage(input_tokens - cached - written, cached,",
        "    return Usage(input_tokens - written, cached,",
        ("tests/providers/test_openai.py", "-n", "0"),
    ),
    Bug(
        "explicit zeros are taken for missing",
        "dispatch/attempt.py",
        "        if reported is not None and is_believable(reported, plan, offer):\n",
        "        if reported is not None and reported != Usage() and is_believable(reported, plan, offer):\n",
        (*_MONEY, "-k", "a_usage_that_cannot_be"),
    ),
    Bug(
        "an absurd usage is believed",
        "metering/usage.py",
        "        and reported.all_input_tokens <= per_choice_max\n",
        "",
        _METERING,
    ),
    Bug(
        "the customer pays the overrun",
        "metering/charge.py",
        "    charge = min(price, hold_nanos)\n",
        "    charge = price\n",
        (*_MONEY, "-k", "none_costs_more"),
    ),
    Bug(
        "an answer without output is charged",
        "metering/charge.py",
        "    price = amount(usage, prices) if was_served else 0\n",
        "    price = amount(usage, prices)\n",
        (*_MONEY, "-k", "what_providers_bill"),
    ),
    Bug(
        "a failed attempt costs nothing",
        "metering/charge.py",
        "charge_nanos=0, cogs_nanos=amount(usage, costs))\n",
        "charge_nanos=0, cogs_nanos=0)\n",
        _METERING,
    ),
    Bug(
        "free on disconnect",
        "dispatch/attempt.py",
        "            if may_be_billed:\n                self._end_received(outcome",
        "            if not may_be_billed:\n                self._end_received(outcome",
        ("tests/e2e/test_disconnect.py", "-n", "0"),
    ),
)

_LONG_HOLD = ("tests/dispatch/test_long_hold.py", "-n", "0")
_OF_LONG_HOLDS = (
    Bug(
        "an attempt on a long hold is charged, which its execution is too",
        "dispatch/execution.py",
        "0 if has_long_hold else bill.charge_nanos,\n",
        "bill.charge_nanos,\n",
        _LONG_HOLD,
    ),
    Bug(
        "an attempt on a long hold ends its execution",
        "dispatch/execution.py",
        "is_final and not has_long_hold,\n",
        "is_final,\n",
        _LONG_HOLD,
    ),
    Bug(
        "a crash on a long hold charges what was delivered",
        "ledger/replay.py",
        "    if progress is not None and not opened.has_long_hold:\n",
        "    if progress is not None:\n",
        _REPLAY,
    ),
    Bug(
        "a call that a provider may have received is made again at another gateway",
        "worker/gateways.py",
        "            if answer.is_sent or answer.code != ",
        "            if answer.code != ",
        ("tests/worker/test_gateways.py", "-n", "0", "-k", "dies"),
    ),
    Bug(
        "an errand that was lost counts as not sent",
        "dispatch/errands.py",
        "        if not answer.is_sent:\n",
        "        if not answer.status:\n",
        ("tests/dispatch/test_errands.py", "-n", "0"),
    ),
    Bug(
        "attempts on long holds are booked row by row",
        "storage/settlement.py",
        'IS NULL AND {_element("charge")} > 0 THEN',
        "IS NULL THEN",
        _SETTLEMENT,
    ),
)

_OF_PRICES_AND_HOLDS = (
    Bug(
        "an asynchronous execution is priced by the version in force",
        "gateway/model_calls.py",
        "            earlier = await self._earlier_views.view_at(call.price_version)\n",
        "            earlier = None\n",
        ("tests/worker/test_gateways.py", "-n", "0", "-k", "prices"),
    ),
    Bug(
        "all of a read is delivered, whatever the hold covers",
        "dispatch/extension.py",
        "            while self.waiting and room_bytes > 0:\n",
        "            while self.waiting:\n",
        ("tests/dispatch/test_extension.py", "-n", "0"),
    ),
    Bug(
        "what was read behind the end of a hold costs nothing",
        "dispatch/attempt.py",
        "settle, undelivered=self._waiting)\n",
        "settle)\n",
        ("tests/dispatch/test_extension.py", "-n", "0"),
    ),
    Bug(
        "usage tells of charges that were given back",
        "storage/usage.py",
        "       (sum(charge) - coalesce(sum(refunded), 0))::bigint,\n",
        "       sum(charge)::bigint,\n",
        ("tests/control/test_account.py", "-n", "0"),
    ),
)

_STEPS = ("tests/storage/test_asynchronous_executions.py",)
_WORK = ("tests/worker/test_executions.py",)
_OF_EXECUTIONS = (
    Bug(
        "a step does not look where it steps from",
        "storage/asynchronous_executions.py",
        " WHERE id = %(id)s AND version = %(version)s\n",
        " WHERE id = %(id)s\n",
        _STEPS,
    ),
    Bug(
        "an idempotency key is only its own for ever",
        "storage/asynchronous_executions.py",
        "     WHERE kept.created_at < now() - interval '{KEPT_HOURS} hours'\n",
        "     WHERE false\n",
        _STEPS,
    ),
    Bug(
        "a cancelled execution's call goes on",
        "worker/executions.py",
        "            return steps.version > claimed.version\n",
        "            return False\n",
        _WORK,
    ),
    Bug(
        "a run takes the attempts of the one before",
        "executions/retries.py",
        "    return (run - 1) * ATTEMPTS_OF_A_RUN\n",
        "    return 0\n",
        _WORK,
    ),
)

BUGS = (
    *_OF_THE_JOURNAL,
    *_OF_LEASES,
    *_OF_BOOKING,
    *_OF_METERING,
    *_OF_LONG_HOLDS,
    *_OF_PRICES_AND_HOLDS,
    *_OF_EXECUTIONS,
    *BUGS_OF_EXECUTIONS,
    *BUGS_OF_PROMOTION,
)
