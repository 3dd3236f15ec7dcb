"""What tests of asynchronous executions need again and again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.storage.books import IDS
from waypost.executions.lifecycle import Mode, State
from waypost.kit.values import replace
from waypost.storage.asynchronous_rows import AsynchronousExecution

NOW = datetime.now(UTC)
HOLD_NANOS = 12_000_000


def received(org_id: bytes, **changes: object) -> AsynchronousExecution:
    """One that is about to be created."""
    execution = AsynchronousExecution(
        id=IDS.new(),
        org_id=org_id,
        api_key_id=IDS.new(),
        model="swift-1",
        modality="chat",
        price_version=1,
        estimate_nanos=10_000_000,
        hold_nanos=HOLD_NANOS,
        accepted_at=NOW,
        expires_at=NOW + timedelta(minutes=5),
    )
    return replace(execution, **changes)


def running(before: AsynchronousExecution) -> AsynchronousExecution:
    return replace(before, state=State.RUNNING, mode=Mode.SYNC, attempt=before.attempt + 1, started_at=NOW)


def ended(before: AsynchronousExecution, state: State, error_code: str = "") -> AsynchronousExecution:
    return replace(before, state=state, ended_at=NOW, error_code=error_code)
