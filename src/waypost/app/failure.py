"""What a person reads when a command fails: sentences with what to do, never a traceback, never content."""

from __future__ import annotations

import os
import traceback

import psycopg

from waypost.app.operator import CommandRefused
from waypost.app.secrets import SecretsError
from waypost.app.settings import SettingsError
from waypost.app.wiring import GatewayRefused
from waypost.ledger.record import LedgerUnavailable
from waypost.policy.document import CatalogueError
from waypost.storage.database import DatabaseUnfit
from waypost.storage.embedded import EmbeddedPostgresError
from waypost.storage.roles import RolesMissing
from waypost.stores.vault import VaultUnfit
from waypost.supervisor.up import UpRefused

_PLAIN = (
    CommandRefused,
    GatewayRefused,
    SecretsError,
    DatabaseUnfit,
    EmbeddedPostgresError,
    RolesMissing,
    UpRefused,
    VaultUnfit,
)
TRACE = "WAYPOST_TRACE"


def sentences(error: BaseException) -> list[str]:
    """The lines for stderr."""
    if isinstance(error, SettingsError | CatalogueError):
        return list(error.mistakes)
    if isinstance(error, _PLAIN):
        return [str(error)]
    if isinstance(error, psycopg.OperationalError | LedgerUnavailable):
        return ["the database does not answer: check --database-url (WAYPOST_DATABASE_URL), and try `waypost doctor`"]
    if isinstance(error, OSError) and error.filename is not None:
        return [f"{error.filename}: {error.strerror}"]
    return _bug(error)


def _bug(error: BaseException) -> list[str]:
    """An exception's text may hold what somebody said, so only its type and place are told."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    lines = [
        f"a mistake of ours ({type(error).__name__} at {where}): please report this line; {TRACE}=1 shows the way there"
    ]
    if os.environ.get(TRACE) == "1":
        lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return lines
