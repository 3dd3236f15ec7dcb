"""What the supervisor hands to a child in its environment, and the child's side of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import msgspec

from waypost.supervisor.hardening import die_with

_PROCESS = "WAYPOST_PROCESS"
_SOCKET = "WAYPOST_INTERNAL_SOCKET"
_LISTEN_FD = "WAYPOST_LISTEN_FD"
_WORKERS = "WAYPOST_WORKERS"
_CONTROL = "WAYPOST_CONTROL_SOCKET"
_SIBLING_FDS = "WAYPOST_SIBLING_FDS"
_LIMITS_FD = "WAYPOST_LIMITS_FD"
_COLUMN = "WAYPOST_LIMITS_COLUMN"
_PARENT_PID = "WAYPOST_PARENT_PID"


class Inheritance(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway's name, and the sockets it serves."""

    process: str  # such as "gateway-0"
    internal_socket: Path  # where it answers /readyz and /metrics
    listen_fd: int  # a public socket, already listening, so that a restart loses no connection
    sibling_fds: tuple[int, ...] = ()  # those of the other gateways, for callers whom they let wait
    workers: int = 1  # gateways of this supervisor: each has its part of what a limit allows
    control_socket: str = ""  # of the control process that runs beside them
    limits_fd: int | None = None  # memory in which several gateways count limits together; a column for each name
    column: int = 0

    def environment(self) -> dict[str, str]:
        """The variables that tell a child of this process."""
        return {
            _PROCESS: self.process,
            _SOCKET: str(self.internal_socket),
            _LISTEN_FD: str(self.listen_fd),
            _WORKERS: str(self.workers),
            _CONTROL: self.control_socket,
            _LIMITS_FD: "" if self.limits_fd is None else str(self.limits_fd),
            _COLUMN: str(self.column),
            _SIBLING_FDS: ",".join(map(str, self.sibling_fds)),
        }


def read_inheritance(environment: Mapping[str, str]) -> Inheritance | None:
    """What the supervisor handed to this gateway; None when it was started by hand."""
    if _PROCESS not in environment:
        return None
    return Inheritance(
        process=environment[_PROCESS],
        internal_socket=Path(environment[_SOCKET]),
        listen_fd=int(environment[_LISTEN_FD]),
        sibling_fds=tuple(map(int, filter(None, environment.get(_SIBLING_FDS, "").split(",")))),
        workers=int(environment.get(_WORKERS, "1")),
        control_socket=environment.get(_CONTROL, ""),
        limits_fd=int(limits_fd) if (limits_fd := environment.get(_LIMITS_FD, "")) else None,
        column=int(environment.get(_COLUMN, "0")),
    )


def parent_environment() -> dict[str, str]:
    """The variable that tells every child who its supervisor is."""
    return {_PARENT_PID: str(os.getpid())}


def die_with_supervisor(environment: Mapping[str, str], how: signal.Signals = signal.SIGTERM) -> None:
    """End in the given way as soon as the supervisor that started this process has ended. The default lets running
    requests finish."""
    if _PARENT_PID in environment:
        die_with(int(environment[_PARENT_PID]), how)
