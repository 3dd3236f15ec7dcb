"""A process that sees payloads cannot be read by others of the same user, and leaves no core file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.stack import Stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and prctl are Linux's")

# Prints when it is private, and waits to be ended.
_PRIVATE = "from waypost.supervisor.hardening import keep_memory_private as k; k(); print(flush=True); input()"


def _without_ptrace(*command: str) -> list[str]:
    """Root may read anybody; without this capability it is a user like others."""
    if os.geteuid() != 0:
        return list(command)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("as root, this needs setpriv to become somebody who may not read everything")
    return [setpriv, "--bounding-set=-sys_ptrace", *command]


@pytest.mark.parametrize(("switch", "is_readable"), [("", False), ("0", False), ("1", True)])
def test_its_memory_is_private_unless_the_switch_for_profilers_is_on(switch: str, is_readable: bool) -> None:
    process = subprocess.Popen(
        _without_ptrace(sys.executable, "-c", _PRIVATE),
        env={**os.environ, "WAYPOST_DUMPABLE": switch},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        opens = subprocess.run(
            _without_ptrace("dd", f"if=/proc/{process.pid}/mem", "count=0"), capture_output=True, check=False
        )
        process.communicate(b"\n")

    assert (opens.returncode == 0) is is_readable, opens.stderr


async def test_a_gateway_leaves_no_core_file_unless_the_switch_is_on(database: str, tmp_path: Path) -> None:
    def core_limits(pid: int) -> list[str]:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
        return next(line for line in lines if line.startswith("Max core file size")).split()[4:6]

    async with Stack(database, tmp_path) as stack:
        assert core_limits(stack.pid) == ["0", "0"]
    async with Stack(database, tmp_path / "open", environment={"WAYPOST_DUMPABLE": "1"}, credit_usd=0) as stack:
        assert core_limits(stack.pid) == core_limits(os.getpid())
