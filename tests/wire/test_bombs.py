"""JSON made to take memory, from callers in every format and from providers: refused or read, it takes 16 MiB at most
beyond its own bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BYTES_MAX = 16 << 20
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_no_json_takes_more_than_its_share() -> None:
    command = [sys.executable, "-m", "tests.wire.bombed"]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=240).stdout
    taken = dict(json.loads(line) for line in said.splitlines())

    assert len(taken) > 100
    assert {name: bytes_taken for name, bytes_taken in taken.items() if bytes_taken > BYTES_MAX} == {}
