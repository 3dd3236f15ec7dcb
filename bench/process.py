"""Child processes of a run: started on chosen cores, ended by pid, and weighed by what /proc says of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import msgspec

_OURS = ("waypost", "waypost.app.part")  # modules that take what a process is as their first word
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
STOP_S = 35.0  # a drain may take 30 s; after this the process is killed


class BenchError(Exception):
    """The benchmark cannot go on; the text tells the reader what to do."""


class ProcStat(msgspec.Struct, frozen=True):
    """The part of `/proc/<pid>/stat` that we use (proc(5)); CPU time of children counts once they are waited for."""

    pid: int
    parent: int
    name: str
    own_ticks: int
    children_ticks: int
    started_ticks: int  # since boot; with the pid it names one process for good


def parse_stat(text: str) -> ProcStat:
    """Read one `/proc/<pid>/stat` line; the command's name may hold blanks and parentheses."""
    head, _, tail = text.rpartition(")")
    pid, _, name = head.partition(" (")
    fields = tail.split()
    utime, stime, cutime, cstime = (int(field) for field in fields[11:15])
    return ProcStat(int(pid), int(fields[1]), name, utime + stime, cutime + cstime, int(fields[19]))


def read_stats() -> list[ProcStat]:
    stats = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stats.append(parse_stat(Path(entry.path, "stat").read_text()))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended between the listing and the reading
    return stats


def tree(roots: Iterable[int], stats: Iterable[ProcStat]) -> list[ProcStat]:
    """The roots that live and all their descendants, each once."""
    by_pid = {stat.pid: stat for stat in stats}
    children: dict[int, list[int]] = {}
    for stat in by_pid.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found: dict[int, ProcStat] = {}
    waiting = [pid for pid in roots if pid in by_pid]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found[pid] = by_pid[pid]
            waiting += children.get(pid, [])
    return list(found.values())


def cpu_s(roots: Iterable[int]) -> float:
    """User and system seconds spent so far by the roots and everything below them.

    A descendant that ended is still counted: its time moved into its parent's `cutime` and `cstime`.
    """
    return sum(stat.own_ticks + stat.children_ticks for stat in tree(roots, read_stats())) / TICKS_PER_S


def cpu_s_by_role(roots: Iterable[int]) -> dict[str, float]:
    """The same seconds, by what the processes are, so that a figure can be taken apart."""
    seconds: dict[str, float] = {}
    for stat in tree(roots, read_stats()):
        role = role_of(stat)
        seconds[role] = seconds.get(role, 0.0) + (stat.own_ticks + stat.children_ticks) / TICKS_PER_S
    return seconds


def role_of(stat: ProcStat) -> str:
    """`gateway` for `python -m waypost gateway …` or `python -m waypost.app.part gateway …`, otherwise its name."""
    try:
        words = Path(f"/proc/{stat.pid}/cmdline").read_text(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return stat.name
    module = words.index("-m") + 1 if "-m" in words[:-2] else 0
    return words[module + 1] if module and words[module] in _OURS else stat.name


def resident_bytes(roots: Iterable[int], *, without: str = "postgres") -> int:
    """Resident memory of the trees; PostgreSQL is left out, as its shared buffers would count once per backend."""
    total = 0
    for stat in tree(roots, read_stats()):
        if stat.name != without:
            try:
                total += parse_resident_bytes(Path(f"/proc/{stat.pid}/status").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return total


def parse_resident_bytes(status: str) -> int:
    """`VmRSS` of `/proc/<pid>/status` in bytes; 0 for a process without memory of its own."""
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


class CoreTicks(msgspec.Struct, frozen=True):
    """Busy and stolen ticks of one core since boot (`/proc/stat`)."""

    busy: int
    stolen: int


def parse_core(text: str, core: int) -> CoreTicks:
    for line in text.splitlines():
        fields = line.split()
        if fields and fields[0] == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[1:9])
            return CoreTicks(user + nice + system + irq + softirq, steal)
    raise BenchError(f"core {core} is not listed in /proc/stat")


class Reading(msgspec.Struct, frozen=True):
    """One look at the clock, at the processes under test, and at their core."""

    at_s: float
    cpu_s: float
    core: CoreTicks

    @classmethod
    def take(cls, roots: Iterable[int], core: int) -> Reading:
        ticks = parse_core(Path("/proc/stat").read_text(), core)
        return cls(time.monotonic(), cpu_s(roots), ticks)


class Spent(msgspec.Struct, frozen=True):
    """What happened between two readings. Shares are of one core."""

    wall_s: float
    cpu_s: float
    own_share: float
    foreign_share: float  # others on the same core: noise of a shared machine
    stolen_share: float  # taken by the hypervisor

    @classmethod
    def between(cls, before: Reading, after: Reading) -> Spent:
        wall_s = max(after.at_s - before.at_s, 1e-9)
        own = after.cpu_s - before.cpu_s
        busy = (after.core.busy - before.core.busy) / TICKS_PER_S
        stolen = (after.core.stolen - before.core.stolen) / TICKS_PER_S
        return cls(wall_s, own, own / wall_s, max(0.0, busy - own) / wall_s, stolen / wall_s)


class Child:
    """A process that this run started and will end, by pid."""

    def __init__(
        self,
        argv: list[str],
        *,
        cores: Iterable[int],
        log: Path | None = None,
        env: dict[str, str] | None = None,
        pipes: bool = False,
    ) -> None:
        command = ["taskset", "-c", ",".join(map(str, cores)), *argv]
        self.name = Path(argv[0]).name
        self.log = log
        output: IO[Any] | int = log.open("ab") if log else subprocess.DEVNULL
        try:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        finally:
            if not isinstance(output, int):
                output.close()
        self.pid = self.popen.pid

    def require_alive(self) -> None:
        if self.popen.poll() is not None:
            raise BenchError(f"{self.name} ended with code {self.popen.returncode}.{self._log_end()}")

    def _log_end(self) -> str:
        if self.log is None or not self.log.exists():
            return ""
        return " Its last words:\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.popen.poll() is None:
            family = tree([self.pid], read_stats())
            self.popen.terminate()
            try:
                self.popen.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
            # A child that hangs outlives a parent that was killed.
            alive = {(stat.pid, stat.started_ticks) for stat in read_stats()}
            for stat in family:
                if (stat.pid, stat.started_ticks) in alive:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(stat.pid, signal.SIGKILL)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe:
                pipe.close()


def wait_until(is_done: Callable[[], bool], what: str, *, timeout_s: float) -> None:
    """Look every 50 ms until it is so.

    Raises:
        BenchError: it did not become so in time.
    """
    deadline = time.monotonic() + timeout_s
    while not is_done():
        if time.monotonic() > deadline:
            raise BenchError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(0.05)


def wait_idle(roots: Iterable[int], *, timeout_s: float = 15.0) -> None:
    """Wait for the backlog: until the processes use less than 5 % of a core over 300 ms, or the time is up."""
    pids = list(roots)
    deadline = time.monotonic() + timeout_s
    while pids and time.monotonic() < deadline:
        before = cpu_s(pids)
        time.sleep(0.3)
        if cpu_s(pids) - before < 0.015:
            return
