"""What runs under a pid: the question that a stale postmaster.pid raises."""

from __future__ import annotations

import subprocess
from enum import Enum
from pathlib import Path

_PROC = Path("/proc")


class ProcessState(Enum):
    GONE = "gone"
    ZOMBIE = "zombie"
    POSTGRES = "postgres"
    ANOTHER = "another"  # the pid was given to another program, as happens after a container's restart


def process_state(pid: int) -> ProcessState:
    """The state of the process with that pid."""
    if (_PROC / "self").exists():
        state, program = _from_proc(pid)
    else:
        state, program = _from_ps(pid)
    if not state or state.startswith("X"):
        return ProcessState.GONE
    if state.startswith("Z"):
        return ProcessState.ZOMBIE
    return ProcessState.POSTGRES if program.startswith("postgres") else ProcessState.ANOTHER


def _from_proc(pid: int) -> tuple[str, str]:
    try:
        line = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return "", ""
    # pid (program) state …, where the program's name may itself hold brackets: proc(5).
    program, _, rest = line.partition("(")[2].rpartition(")")
    return rest.split()[0], program


def _from_ps(pid: int) -> tuple[str, str]:
    command = ["/bin/ps", "-o", "stat=,ucomm=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    state, _, program = shown.stdout.strip().partition(" ")
    return state, program.strip()
