"""Bounds processes to a share of a core each, so that what a machine of two cores cannot show by itself can be seen:
two gateways that do not share one core with their own load, and a load of three times what a gateway can do.

It takes control groups of version 1 with the `cpu` controller, and root (Linux, Documentation/scheduler/sched-bwc.rst).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.process import BenchError, ProcStat, read_stats, role_of, tree

_GROUPS = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 20_000  # short, so that the pauses are: a gateway that has used its share waits for the rest of a period


def require_groups() -> None:
    """Raises BenchError where processes cannot be bounded."""
    if not (_GROUPS / "cpu.cfs_quota_us").exists() and not os.access(_GROUPS, os.W_OK):
        raise BenchError(f"left out: there is no cpu controller (control groups, version 1) at {_GROUPS}")
    if os.geteuid() != 0:
        raise BenchError("left out: only root may bound processes to a share of a core")


def gateways(roots: Iterable[int]) -> list[int]:
    """Pids of the gateways below `roots`."""
    found: list[ProcStat] = [stat for stat in tree(roots, read_stats()) if role_of(stat) == "gateway"]
    return [stat.pid for stat in found]


class Bounded:
    """Processes that have a share of a core each."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders

    def throttled_share(self) -> float:
        """In how many of its periods the least held back of them had to wait. Near 1, the share was the limit, and near
        0 it was something else."""
        shares = []
        for folder in self._folders:
            told = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
            shares.append(int(told["nr_throttled"]) / max(1, int(told["nr_periods"])))
        return min(shares)


@contextlib.contextmanager
def bounded(pids: Iterable[int], share: float) -> Iterator[Bounded]:
    """Each of the processes gets `share` of one core, with all of its threads."""
    folders = []
    try:
        for pid in pids:
            folder = _GROUPS / f"waypost-bench-{pid}"
            folder.mkdir()
            folders.append(folder)
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(round(share * _PERIOD_US)))
            (folder / "cgroup.procs").write_text(str(pid))
        yield Bounded(folders)
    finally:
        for folder in folders:
            for left in (folder / "cgroup.procs").read_text().split():
                (_GROUPS / "cgroup.procs").write_text(left)
            folder.rmdir()
