"""Planted mistakes of asynchronous executions; see `bugs`."""

from __future__ import annotations

from tests.seeded_bugs.planting import Bug

_SCHEDULES = ("tests/simulation/test_executions.py", "-n", "0")

BUGS_OF_EXECUTIONS = (
    Bug(
        "a step is taken from wherever the execution is",
        "storage/asynchronous_executions.py",
        "WHERE id = %(id)s AND version = %(version)s\n",
        "WHERE id = %(id)s AND %(version)s > 0\n",
        _SCHEDULES,
    ),
    Bug(
        "a webhook is announced outside of the transaction",
        "storage/asynchronous_executions.py",
        "            await self._announce(connection, after, event, ending)\n",
        "            async with self.pool.connection() as apart:\n"
        "                await self._announce(apart, after, event, ending)\n",
        _SCHEDULES,
    ),
    Bug(
        "an execution that fails keeps its hold",
        "storage/asynchronous_executions.py",
        "        if ending is not None:\n            await self._settle(",
        "        if ending is not None and ending.charge_nanos:\n            await self._settle(",
        _SCHEDULES,
    ),
    Bug(
        "events are not numbered",
        "storage/asynchronous_executions.py",
        "sequence=before.sequence + is_told)",
        "sequence=1)",
        _SCHEDULES,
    ),
    Bug(
        "what may have been submitted is submitted again",
        "worker/job_submissions.py",
        "        if row.provider is None:\n            await self._submit(row, refused)\n",
        "        if row.provider is not None:\n            await self._submit(row, refused)\n",
        _SCHEDULES,
    ),
    Bug(
        "a proxy's lost answer is taken for a refusal",
        "executions/provider_job.py",
        "frozenset((502, 504, 520,",
        "frozenset((520,",
        _SCHEDULES,
    ),
    Bug(
        "a lost answer is taken for a refusal",
        "worker/job_desk.py",
        "return Submitted(Next.UNKNOWN, credential=sent.credential.encode() or None)",
        "return Submitted(Next.ELSEWHERE, credential=sent.credential.encode() or None)",
        _SCHEDULES,
    ),
    Bug(
        "a step follows an end",
        "storage/asynchronous_executions.py",
        "        if before.state.has_ended:\n            return None\n        stepped = _checked",
        "        stepped = _checked",
        ("tests/control/test_executions.py", "-n", "0", "-k", "test_nothing_follows_an_end"),
    ),
    Bug(
        "what follows is queued after the step",
        "worker/job_steps.py",
        "                await defer(connection, then.task, arguments, queue=QUEUE, at=at)\n"
        "            taken.stepped = stepped\n        return stepped\n",
        "            taken.stepped = stepped\n"
        "        if then is not None:\n"
        "            async with self._executions.pool.connection() as apart, apart.transaction():\n"
        "                await defer(apart, then.task, arguments, queue=QUEUE, at=at)\n"
        "        return stepped\n",
        _SCHEDULES,
    ),
    Bug(
        "the input outlives its execution",
        "worker/job_steps.py",
        "            await self._vault.delete(input_key(row.id))\n",
        "            pass\n",
        _SCHEDULES,
    ),
    Bug(
        "a success costs all that was held",
        "executions/provider_job.py",
        "    return min(amount(made, prices), hold_nanos)\n",
        "    return hold_nanos\n",
        _SCHEDULES,
    ),
    Bug(
        "what an overtaken call answers is charged",
        "worker/executions.py",
        "            charge_nanos = min(outcome.charge_nanos, claimed.hold_nanos)\n",
        "            claimed = replace(\n"
        "                await self._executions.find(claimed.id) or claimed, state=claimed.state\n"
        "            )\n"
        "            charge_nanos = min(outcome.charge_nanos, claimed.hold_nanos)\n",
        _SCHEDULES,
    ),
)
