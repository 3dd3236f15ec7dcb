"""The four scenarios: plain calls, streams, latency at an even rate, memory of open streams."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench import wrk
from bench.exchange import stream_model
from bench.load import LoadOptions, LoadReport
from bench.process import BenchError, Child, Reading, Spent, cpu_s_by_role, resident_bytes, wait_idle
from bench.system import Place, System
from waypost.kit.values import replace

PLAIN_MODEL = "plain-chat"
HELD_CHUNKS, HELD_PACE_MS = 1000, 500  # two chunks a second, longer than any stream is held
WARM_S = 1.0


class Shape(msgspec.Struct, frozen=True):
    """How much load the scenarios make."""

    connections: int = 64
    streams: int = 256
    chunks: int = 100
    pace_ms: int = 10
    rate: int = 1000
    open_streams: int = 2000


Values = dict[str, float]
Scenario = Callable[[Place, System, Shape, float], Values]


def plain(place: Place, system: System, shape: Shape, seconds: float) -> Values:
    """Closed loop: every connection asks again as soon as it was answered."""
    script_file = place.folder / f"{system.name}.lua"
    script_file.write_text(wrk.script(PLAIN_MODEL, system.authorization, system.plain_headers))

    def load(duration_s: float) -> wrk.WrkReport:
        return wrk.run(
            place.tools.wrk,
            script_file,
            system.plain_port,
            connections=shape.connections,
            seconds=duration_s,
            cores=place.cores.others,
        )

    warm = load(WARM_S)
    wait_idle(system.roots())
    parts_before = cpu_s_by_role(system.roots())
    before = Reading.take(system.roots(), place.cores.proxy)
    report = load(seconds)
    loaded = Reading.take(system.roots(), place.cores.proxy)
    wait_idle(system.roots())
    drained = Reading.take(system.roots(), place.cores.proxy)
    parts = _per_part(parts_before, cpu_s_by_role(system.roots()), report.requests)
    return {
        **_core_shares(Spent.between(before, loaded)),
        **parts,
        "requests": report.requests,
        "warm_requests": warm.requests,
        "failed": report.failed + warm.failed,
        "requests_per_s": report.requests / report.seconds,
        "cpu_us": _per_us(Spent.between(before, drained).cpu_s, report.requests),
        "us_p50": report.us_p50,
        "us_p99": report.us_p99,
    }


def stream(place: Place, system: System, shape: Shape, seconds: float) -> Values:
    """A fixed number of open streams at a fixed pace, so that every proxy relays the same chunks one by one."""
    options = LoadOptions(
        port=system.stream_port,
        model=stream_model(shape.chunks, shape.pace_ms),
        authorization=system.authorization,
        headers=system.stream_headers,
        seconds=seconds,
        streams=shape.streams,
        ramp_s=shape.chunks * shape.pace_ms / 1000,
    )
    warm = _run_load(place, "stream", replace(options, seconds=WARM_S, streams=32, ramp_s=0.1))
    wait_idle(system.roots())
    parts_before = cpu_s_by_role(system.roots())
    before = Reading.take(system.roots(), place.cores.proxy)
    report = _run_load(place, "stream", options)
    loaded = Reading.take(system.roots(), place.cores.proxy)
    wait_idle(system.roots())
    spent = Spent.between(before, Reading.take(system.roots(), place.cores.proxy))
    parts = _per_part(parts_before, cpu_s_by_role(system.roots()), report.completed)
    return {
        **_core_shares(Spent.between(before, loaded)),
        **parts,
        "requests": report.completed,
        "warm_requests": warm.completed,
        "failed": report.failed + warm.failed,
        "chunks": report.chunks,
        "chunks_per_s": report.chunks / report.seconds,
        "chunks_per_read": report.chunks / max(1, report.reads),
        "cpu_us": _per_us(spent.cpu_s, report.completed),
        "cpu_us_per_chunk": _per_us(spent.cpu_s, report.chunks),
        "us_p50": report.us_p50,
        "us_p99": report.us_p99,
        "transit_us_p50": report.transit_us_p50,
        "transit_us_p99": report.transit_us_p99,
    }


def latency(place: Place, system: System, shape: Shape, seconds: float) -> Values:
    """Open loop: calls start at an even rate, answered or not."""
    options = LoadOptions(
        port=system.plain_port,
        model=PLAIN_MODEL,
        authorization=system.authorization,
        headers=system.plain_headers,
        seconds=seconds,
        rate=shape.rate,
    )
    before = Reading.take(system.roots(), place.cores.proxy)
    report = _run_load(place, "latency", options)
    spent = Spent.between(before, Reading.take(system.roots(), place.cores.proxy))
    wait_idle(system.roots())
    return {
        **_core_shares(spent),
        "requests": report.completed,
        "warm_requests": shape.rate,
        "failed": report.failed,
        "cpu_us": _per_us(spent.cpu_s, report.completed + shape.rate),
        "us_p50": report.us_p50,
        "us_p99": report.us_p99,
    }


def memory(place: Place, system: System, shape: Shape, seconds: float) -> Values:
    """Growth of resident memory while many streams are open, after a first few have warmed everything up."""
    del seconds  # it takes as long as opening them takes
    options = LoadOptions(
        port=system.stream_port,
        model=stream_model(shape.chunks, shape.pace_ms),
        authorization=system.authorization,
        headers=system.stream_headers,
        seconds=WARM_S,
        streams=16,
    )
    warm = _run_load(place, "stream", options)
    held = replace(
        options,
        model=stream_model(HELD_CHUNKS, HELD_PACE_MS),
        streams=shape.open_streams,
    )
    wait_idle(system.roots())
    before = resident_bytes(system.roots())
    log = place.folder / "hold.log"
    command = _load_command("hold", held)
    with Child(command, cores=place.cores.others, log=log, pipes=True) as child:
        assert child.popen.stdin
        assert child.popen.stdout
        if child.popen.stdout.readline().strip() != b"open":
            raise BenchError(f"{system.name} did not open {held.streams} streams. {_tail(log)}")
        time.sleep(2.0)  # every stream has had a few chunks by then
        grown = resident_bytes(system.roots()) - before
        child.popen.stdin.close()
        report = msgspec.json.decode(child.popen.stdout.readline(), type=LoadReport)
        child.popen.wait(30)
    wait_idle(system.roots())
    return {
        "requests": held.streams,
        "warm_requests": warm.completed,
        "failed": report.failed + warm.failed,
        "kib_per_stream": grown / 1024 / held.streams,
        "mib_before": before / 2**20,
    }


# Memory goes first: growth is only seen in processes that have not yet held as many streams.
SCENARIOS: dict[str, Scenario] = {"memory": memory, "plain": plain, "stream": stream, "latency": latency}


def _load_command(kind: str, options: LoadOptions) -> list[str]:
    return [sys.executable, "-m", "bench.load", kind, msgspec.json.encode(options).decode()]


def _run_load(place: Place, kind: str, options: LoadOptions) -> LoadReport:
    command = ["taskset", "-c", ",".join(map(str, place.cores.others)), *_load_command(kind, options)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=options.seconds + 150)
    if done.returncode:
        raise BenchError(f"The {kind} load failed: {done.stderr.decode(errors='replace').strip()[-800:]}")
    return msgspec.json.decode(done.stdout, type=LoadReport)


def _core_shares(spent: Spent) -> Values:
    return {"own_share": spent.own_share, "foreign_share": spent.foreign_share, "stolen_share": spent.stolen_share}


def _per_us(seconds: float, count: int) -> float:
    return seconds * 1e6 / count if count else 0.0


def _per_part(before: dict[str, float], after: dict[str, float], requests: int) -> Values:
    """CPU microseconds per request by process, as `cpu_us:postgres`."""
    return {f"cpu_us:{name}": _per_us(spent - before.get(name, 0.0), requests) for name, spent in after.items()}


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:])
