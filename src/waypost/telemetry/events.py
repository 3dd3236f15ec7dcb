"""Typed events: the only way to write a log line. JSON on stderr, one line an event, fields from an allow-list.

An event is a struct, so there is no free text, no `str(exception)` and no payload that could slip in; a test holds
every field of every event against `FIELDS`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from datetime import UTC, datetime

import msgspec

FIELDS = {
    # name of the field → what may stand in it
    "process": "name of one of our processes",
    "pid": "process id",
    "port": "TCP port of ours",
    "error_type": "class name of an exception, never its text",
    "where": "file and line of our own code",
    "logger": "name of a third party's logger",
    "backlog": "count",
    "recovered": "count",
    "crashed": "count",
    "version": "catalogue version",
    "provider": "id from the operator's own configuration",
    "deployment": "id from the operator's own configuration",
    "refused": "'credential' or 'model name'",
    "execution_id": "id",
    "file_id": "id",
    "over_nanos": "amount",
    "age_s": "duration",
    "open_s": "duration",
    "in_flight": "count",
    "lag_s": "duration",
    "memory_share": "share of the memory that the process may use",
    "exit_code": "exit status of a process of ours",
    "setting": "name of a setting",
    "leases": "count",
    "violations": "count",
    "overdue": "count",
    "endpoint_id": "id",
    "reason": "one of our own words",
}


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of all events. A subclass's name is its event name; class attribute `level` is info unless said."""

    level = "info"


class ProcessStarted(Event, frozen=True):
    process: str
    pid: int
    port: int = 0


class ProcessEnded(Event, frozen=True):
    level = "warning"
    process: str
    pid: int
    exit_code: int


class WorkerReplaced(Event, frozen=True):
    """A new process serves in its place."""

    process: str


class WorkerNotReplaced(Event, frozen=True):
    """The new process did not get ready; the one there was serves on."""

    level = "error"
    process: str


class SettingsAdopted(Event, frozen=True):
    """What can change of `[server]` and `[egress]` while we serve is in force as the file says."""

    process: str


class SettingsRefused(Event, frozen=True):
    """The configuration file, or a file that it names, has a mistake: what was in force stays."""

    level = "error"
    process: str


class SettingNeedsRestart(Event, frozen=True):
    """This setting has changed in the file, and cannot change while a process serves."""

    level = "warning"
    process: str
    setting: str


class LimitServerLost(Event, frozen=True):
    """What counts limits for all machines does not answer: until it does, each allows its part of every limit."""

    level = "warning"
    process: str


class LimitServerFound(Event, frozen=True):
    """Limits are counted for all machines together."""

    process: str


class Draining(Event, frozen=True):
    process: str


class BugCaught(Event, frozen=True):
    """An exception reached a process edge. Its text may quote payload, so only its type and place are told."""

    level = "error"
    error_type: str
    where: str


class ThirdPartyLogged(Event, frozen=True):
    level = "warning"
    logger: str
    where: str
    error_type: str = ""


class CatalogueAdopted(Event, frozen=True):
    version: int


class CredentialUnusable(Event, frozen=True):
    """A credential of this provider cannot be read here; what has no other is not called."""

    level = "error"
    provider: str


class JournalRecovered(Event, frozen=True):
    recovered: int
    crashed: int


class JournalQuarantined(Event, frozen=True):
    level = "error"
    process: str


class JournalNotTakenOver(Event, frozen=True):
    """`process` is whose it was."""

    level = "error"
    process: str
    error_type: str


class AdmissionStopped(Event, frozen=True):
    """The books cannot be kept here any more: the journal cannot be written, a task of ours died (a BugCaught says
    where), or another process took this node's place. The process leaves."""

    level = "error"
    process: str


class JournalRunningOut(Event, frozen=True):
    """The disk is full, or the database has booked nothing for long; without room nothing is admitted."""

    level = "error"
    process: str
    backlog: int


class SettlingDelayed(Event, frozen=True):
    level = "warning"
    backlog: int
    age_s: float


class SettlementRefused(Event, frozen=True):
    """The database took everything but this attempt, because of a defect; its lease stays open."""

    level = "error"
    execution_id: str
    error_type: str


class LeasesMoved(Event, frozen=True):
    """Leases of nodes that fell silent went to suspense, or came back from it."""

    level = "warning"
    leases: int


class ServerPromoted(Event, frozen=True):
    """A standby of the database was promoted and may have lost commits: this process presents its leases and books
    again what it had booked, and no money leaves a wallet until all have."""

    level = "warning"
    leases: int


class LeasesPresented(Event, frozen=True):
    """The promoted server has this process's leases, and `recovered` attempts were booked there again."""

    level = "warning"
    leases: int
    recovered: int


class GrantsResumed(Event, frozen=True):
    """Every node has presented itself to the promoted server, or those that have not count as lost."""

    level = "warning"


class BooksBroken(Event, frozen=True):
    """A rule of the books does not hold, or attempts are open that should have been closed long ago. `waypost ledger
    check` tells which."""

    level = "error"
    violations: int
    overdue: int


class DatabaseLost(Event, frozen=True):
    """It does not answer; what is in memory serves on. `/readyz` tells how it is now."""

    level = "warning"
    process: str


class RefusedByProvider(Event, frozen=True):
    """A provider does not take what we are configured to send it: an operator must act."""

    level = "error"
    provider: str
    deployment: str
    refused: str


class ProviderJobLost(Event, frozen=True):
    """A job was submitted and the answer lost: it is looked for, and never submitted again blindly."""

    level = "warning"
    provider: str
    deployment: str


class ProviderJobOrphaned(Event, frozen=True):
    """A provider worked at a job that nobody waits for any more: the house pays what it cost."""

    level = "warning"
    provider: str
    deployment: str


class ProviderJobUnbooked(Event, frozen=True):
    """How a job ended that nobody waits for could not be learned in time: what it cost is not in the books."""

    level = "error"
    execution_id: str
    provider: str
    deployment: str


class ProviderJobOutputLost(Event, frozen=True):
    """What a job made could not be fetched, however often its address was asked for: its execution failed."""

    level = "error"
    provider: str
    deployment: str


class CircuitOpened(Event, frozen=True):
    """This deployment keeps failing, with one credential: no call for `open_s`, then a few to try."""

    level = "warning"
    provider: str
    deployment: str
    open_s: float


class CircuitClosed(Event, frozen=True):
    """It answers again."""

    provider: str
    deployment: str


class BulkheadFull(Event, frozen=True):
    """As many calls of this provider are under way as may be, and nobody else got a place in time."""

    level = "warning"
    provider: str
    in_flight: int


class SheddingBegun(Event, frozen=True):
    """The loop is late or memory runs out: part of the new requests, or all, get 503 until that is over."""

    level = "error"
    lag_s: float
    memory_share: float


class SheddingEnded(Event, frozen=True):
    """Everybody is admitted again."""


class UsageDoubtful(Event, frozen=True):
    """A provider reported a usage that cannot be; the charge was estimated."""

    level = "warning"
    provider: str
    deployment: str
    execution_id: str


class HoldOverrun(Event, frozen=True):
    """A provider billed more than the hold: the house bears the rest."""

    level = "error"
    provider: str
    deployment: str
    execution_id: str
    over_nanos: int


class WebhookEndpointDeactivated(Event, frozen=True):
    """It kept failing, or said that it is gone: it gets no more webhooks until its owner activates it."""

    level = "warning"
    endpoint_id: str
    reason: str


class WebhookSecretUnreadable(Event, frozen=True):
    """A secret was sealed under another key than the one in the secrets directory: its webhooks wait."""

    level = "error"
    endpoint_id: str


class FileUnreadable(Event, frozen=True):
    """Its object is gone or not as it was written, or the file key that its own is wrapped with is not here."""

    level = "error"
    file_id: str
    error_type: str


class FilesNotErased(Event, frozen=True):
    """The store does not answer: so many objects of deleted files wait for the next sweep. Nobody can read them."""

    level = "warning"
    backlog: int


_encode = msgspec.json.Encoder().encode


def emit(event: Event) -> None:
    """Write one line to stderr: ts, level, event, then the event's fields.

    A log that nobody takes any more stops nothing: what it tells of must still be done."""
    head = {
        "ts": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds"),  # noqa: TID251  the log's own clock
        "level": event.level,
        "event": type(event).__name__,
    }
    with contextlib.suppress(OSError, ValueError):  # ValueError: stderr is closed
        sys.stderr.buffer.write(_encode(head | msgspec.structs.asdict(event)) + b"\n")
        sys.stderr.buffer.flush()


def report_bug(error: BaseException) -> None:
    """Tell that an exception reached an edge: its type and our innermost line, never its text."""
    where = ""
    frame = error.__traceback__
    while frame is not None:
        path = frame.tb_frame.f_code.co_filename
        if "waypost" in path:
            where = f"{path.rpartition('waypost/')[2]}:{frame.tb_lineno}"
        frame = frame.tb_next
    emit(BugCaught(error_type=type(error).__name__, where=where))


class _TypesOnly(logging.Handler):
    """Third-party loggers: logger, place and exception type; their messages may quote payload."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        emit(ThirdPartyLogged(logger=record.name, where=f"{record.module}:{record.lineno}", error_type=kind))


def quieten_third_parties() -> None:
    """Send every `logging` user of the process through the typed path, from WARNING up."""
    root = logging.getLogger()
    root.handlers[:] = [_TypesOnly()]
    root.setLevel(logging.WARNING)
