"""What a process that sees payloads asks of the kernel: no core dump, no debugger, no reader of its memory, and an end
with its parent; and how many files it may have open. The Linux parts are without effect elsewhere."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

# prctl(2), from <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
# mlockall(2), from <asm-generic/mman.h>
_MCL_CURRENT = 1
_MCL_FUTURE = 2
_MCL_ONFAULT = 4


def keep_memory_private() -> None:
    """Keep this process's memory out of core files, and away from ptrace and other processes of the same user.

    WAYPOST_DUMPABLE=1 leaves it open, for profilers.
    """
    if os.environ.get("WAYPOST_DUMPABLE") == "1":
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def open_many_files() -> None:
    """Take the whole of what this process may have open at one time: shells give a small part of it by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY, soft):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_memory_from_swap(bytes_needed: int) -> bool:
    """Lock this process's memory, as it is used, so that it never reaches a swap device; whether that was allowed.

    Under a limit lower than `bytes_needed` nothing is locked: every allocation beyond it would fail."""
    if sys.platform != "linux":
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard not in (resource.RLIM_INFINITY, soft):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < bytes_needed:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


def die_with(parent_pid: int, how: signal.Signals) -> None:
    """Have the kernel send us this signal when the parent ends, however it ends."""
    _prctl(_PR_SET_PDEATHSIG, how)
    if os.getppid() != parent_pid:  # it ended before we asked
        signal.raise_signal(how)


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) was refused")
