"""wrk: closed-loop load for plain calls, and the reading of what it reports."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bench.exchange import PATH, request_body
from bench.process import BenchError

# `done` runs once at the end, so nothing of this costs time per request. Latencies are in microseconds.
_REPORT = """
done = function(summary, latency, requests)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write
               + summary.errors.status + summary.errors.timeout
  io.write(string.format(
    '{"requests":%d,"failed":%d,"received_bytes":%d,"seconds":%.6f,"us_p50":%.1f,"us_p99":%.1f,"us_max":%.1f}\\n',
    summary.requests, failed, summary.bytes, summary.duration / 1e6,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


class WrkReport(msgspec.Struct, frozen=True):
    """Answers of any status, how many calls failed (no answer, or a status above 399), and latencies."""

    requests: int
    failed: int
    received_bytes: int
    seconds: float
    us_p50: float
    us_p99: float
    us_max: float


def script(model: str, authorization: str, headers: Iterable[tuple[str, str]] = ()) -> str:
    """The Lua script that makes every request the same POST."""
    body = request_body(model, is_stream=False).decode()
    assert "]==]" not in body
    lines = ['wrk.method = "POST"', 'wrk.headers["Content-Type"] = "application/json"', f"wrk.body = [==[{body}]==]"]
    if authorization:
        lines.append(f'wrk.headers["Authorization"] = "{authorization}"')
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers]
    return "\n".join(lines) + "\n" + _REPORT


def parse_report(output: str) -> WrkReport:
    """Find our JSON line in wrk's output.

    Raises:
        BenchError: there is none, which means that wrk did not finish.
    """
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return msgspec.json.decode(line.encode(), type=WrkReport)
    raise BenchError(f"wrk gave no report: {output.strip()[-500:]}")


def run(wrk: str, script_file: Path, port: int, *, connections: int, seconds: float, cores: Iterable[int]) -> WrkReport:
    """Load `port` for whole seconds (wrk knows no smaller unit), one thread."""
    duration = max(1, round(seconds))
    command = ["taskset", "-c", ",".join(map(str, cores)), wrk, "-t", "1", "-c", str(connections)]
    command += ["-d", f"{duration}s", "--timeout", "10s", "-s", str(script_file), f"http://127.0.0.1:{port}{PATH}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=duration + 60)
    return parse_report(done.stdout + done.stderr)
