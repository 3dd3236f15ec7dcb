"""What the supervisor hands to a child in its environment, and the child's side of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import msgspec

from waypost.supervisor.prctl import PR_SET_PDEATHSIG, prctl

_PROCESS = "WAYPOST_PROCESS"
_SOCKET = "WAYPOST_INTERNAL_SOCKET"
_LISTEN_FD = "WAYPOST_LISTEN_FD"
_PARENT_PID = "WAYPOST_PARENT_PID"


class Inheritance(msgspec.Struct, frozen=True, kw_only=True):
    """A child's name, and the sockets it serves."""

    process: str  # such as "gateway-0"
    internal_socket: Path  # where it answers /readyz and /metrics
    listen_fd: int | None = None  # the public socket, already listening, so that a restart loses no connection
    parent_pid: int = 0

    def environment(self) -> dict[str, str]:
        """The variables that tell a child of this process."""
        listen = {} if self.listen_fd is None else {_LISTEN_FD: str(self.listen_fd)}
        return {
            _PROCESS: self.process,
            _SOCKET: str(self.internal_socket),
            _PARENT_PID: str(os.getpid()),
            **listen,
        }


def read_inheritance(environment: Mapping[str, str]) -> Inheritance | None:
    """What the supervisor handed to this process; None when it was started by hand."""
    if _PARENT_PID not in environment:
        return None
    listen_fd = environment.get(_LISTEN_FD)
    return Inheritance(
        process=environment[_PROCESS],
        internal_socket=Path(environment[_SOCKET]),
        listen_fd=None if listen_fd is None else int(listen_fd),
        parent_pid=int(environment[_PARENT_PID]),
    )


def die_with_supervisor(inheritance: Inheritance, how: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send us this signal when the supervisor ends, however it ends. The default lets running
    requests finish."""
    prctl(PR_SET_PDEATHSIG, how)
    if os.getppid() != inheritance.parent_pid:  # it ended before we asked
        signal.raise_signal(how)
