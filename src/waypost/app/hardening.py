"""What a process that sees payloads asks of the kernel: no core dump, no debugger, no reader of its memory."""

from __future__ import annotations

import os
import resource

from waypost.supervisor.prctl import PR_SET_DUMPABLE, prctl


def keep_memory_private() -> None:
    """Keep this process's memory out of core files, and away from ptrace and other processes of the same user.

    WAYPOST_DUMPABLE=1 leaves it open, for profilers.
    """
    if os.environ.get("WAYPOST_DUMPABLE") == "1":
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(PR_SET_DUMPABLE, 0)
