"""Reading /proc: CPU time of process trees, core shares, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.process import (
    TICKS_PER_S,
    BenchError,
    Child,
    CoreTicks,
    ProcStat,
    Reading,
    Spent,
    cpu_s,
    parse_core,
    parse_resident_bytes,
    parse_stat,
    read_stats,
    resident_bytes,
    role_of,
    tree,
    wait_until,
)

STAT = (
    "4711 (a (strange) name) S 42 4711 4711 0 -1 4194560 1210 0 0 0 "
    "150 50 7 3 20 0 4 0 250 117440512 3072 18446744073709551615"
)


def test_a_stat_line_is_read_whatever_the_process_is_called() -> None:
    assert parse_stat(STAT) == ProcStat(
        4711, 42, "a (strange) name", own_ticks=200, children_ticks=10, started_ticks=250
    )


def test_a_tree_holds_roots_and_descendants_once_each() -> None:
    stats = [
        ProcStat(pid, parent, "x", 1, 0, 0) for pid, parent in [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (21, 20)]
    ]

    assert sorted(stat.pid for stat in tree([10, 11, 99], stats)) == [10, 11, 12]


def test_cpu_time_of_a_child_that_has_ended_still_counts() -> None:
    burn = "sum(range(8_000_000))"
    before = cpu_s([os.getpid()])

    subprocess.run([sys.executable, "-c", burn], check=True)

    assert cpu_s([os.getpid()]) - before >= 2 / TICKS_PER_S


def test_a_process_that_is_gone_has_no_cpu_time_and_no_memory() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()

    assert cpu_s([done.pid]) == 0
    assert resident_bytes([done.pid]) == 0


def test_shares_of_a_core_are_split_into_ours_and_others() -> None:
    before = Reading(at_s=100.0, cpu_s=5.0, core=CoreTicks(busy=1000, stolen=10))
    after = Reading(at_s=102.0, cpu_s=6.0, core=CoreTicks(busy=1000 + TICKS_PER_S * 3 // 2, stolen=10))

    spent = Spent.between(before, after)

    assert (spent.wall_s, spent.cpu_s, spent.own_share, spent.foreign_share) == (2.0, 1.0, 0.5, 0.25)
    assert spent.stolen_share == 0


def test_the_ticks_of_one_core_leave_idling_and_waiting_out() -> None:
    text = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 4 800 900 8 16 5 0 0\ncpu1 1 1 1 1 1 1 1 1 0 0\nintr 1\n"

    assert parse_core(text, 0) == CoreTicks(busy=31, stolen=5)
    with pytest.raises(BenchError):
        parse_core(text, 7)


def test_resident_memory_is_read_in_bytes() -> None:
    assert parse_resident_bytes("Name:\tx\nVmPeak:\t  100 kB\nVmRSS:\t    2048 kB\n") == 2 * 2**20
    assert parse_resident_bytes("Name:\tkthreadd\n") == 0
    assert resident_bytes([os.getpid()]) > 2**20


def test_a_child_runs_on_its_core_and_is_gone_afterwards() -> None:
    core = min(os.sched_getaffinity(0))
    say = "import os, sys; print(os.sched_getaffinity(0), flush=True); sys.stdin.read()"

    with Child([sys.executable, "-c", say], cores=[core], pipes=True) as child:
        assert child.popen.stdout
        assert child.popen.stdout.readline().strip() == f"{{{core}}}".encode()

    assert child.popen.returncode is not None
    assert cpu_s([child.pid]) == 0


def test_a_grandchild_that_ignores_the_end_of_its_parent_is_ended_too() -> None:
    say = (
        "import subprocess, sys; "
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True); "
        "print(child.pid, flush=True); child.wait()"
    )

    with Child([sys.executable, "-c", say], cores=sorted(os.sched_getaffinity(0)), pipes=True) as child:
        assert child.popen.stdout
        grandchild = int(child.popen.stdout.readline())
        assert is_running(grandchild)

    wait_until(lambda: not is_running(grandchild), "its end", timeout_s=10)


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and " Z " not in stat.read_text()


def test_a_process_of_waypost_is_called_by_its_part() -> None:
    script = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, "-m", "waypost", "gateway", "--port", "1"]

    with Child(command, cores=sorted(os.sched_getaffinity(0)), pipes=True) as child:
        assert child.popen.stdout
        child.popen.stdout.readline()
        roles = [role_of(stat) for stat in tree([child.pid], read_stats())]

    assert roles == ["gateway"]
    assert role_of(ProcStat(2**22 + 1, 1, "gone", 0, 0, 0)) == "gone"
