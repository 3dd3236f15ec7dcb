"""Where the busiest process of a system spends its time under plain load: a text summary by perf, and by py-spy."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections import Counter
from pathlib import Path

from bench.process import read_stats, tree
from bench.scenario import Shape, plain
from bench.system import Place, System

SECONDS = 8
LINES = 60


def busiest(system: System) -> int:
    """The pid of the process that has used most CPU of its own."""
    return max(tree(system.roots(), read_stats()), key=lambda stat: stat.own_ticks).pid


def profile(place: Place, system: System, shape: Shape, folder: Path) -> list[Path]:
    """Run the plain load once more under each profiler that is installed; figures of such a run count for nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    for name, record in (("perf", _perf), ("py-spy", _py_spy)):
        if not _command(name):
            print(f"{name} is not installed, so there is no profile by it.", flush=True)
            continue
        load = threading.Thread(target=plain, args=(place, system, shape, float(SECONDS + 2)))
        load.start()
        try:
            text = record(busiest(system), place.folder)
        finally:
            load.join()
        out = folder / f"profile-{system.name}-{name}.txt"
        out.write_text(text)
        found.append(out)
    return found


def _command(name: str) -> list[str]:
    """How a profiler is called: uv can fetch py-spy."""
    if shutil.which(name):
        return [name]
    return ["uv", "tool", "run", name] if name == "py-spy" and shutil.which("uv") else []


def _perf(pid: int, folder: Path) -> str:
    data = str(folder / "perf.data")
    _run(["perf", "record", "-q", "-F", "999", "-p", str(pid), "-o", data, "--", "sleep", str(SECONDS)])
    by_part = _run(["perf", "report", "-i", data, "--stdio", "-q", "--sort", "dso"])
    by_symbol = _run(["perf", "report", "-i", data, "--stdio", "-q", "--sort", "dso,symbol"])
    return f"By part:\n{_first_lines(by_part, 15)}\n\nBy symbol:\n{_first_lines(by_symbol, LINES)}\n"


def _py_spy(pid: int, folder: Path) -> str:
    data = folder / "py-spy.txt"
    options = ["-p", str(pid), "-d", str(SECONDS), "-r", "500", "-f", "raw", "-o", str(data)]
    _run([*_command("py-spy"), "record", *options])
    return summarise_stacks(data.read_text() if data.exists() else "")


def summarise_stacks(collapsed: str) -> str:
    """`frame;frame;frame count` lines to a table of functions: share by itself, and with all it calls."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in collapsed.splitlines():
        stack, _, hits = line.rpartition(" ")
        frames = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        own[frames[-1]] += int(hits)
        whole.update(dict.fromkeys(frames, int(hits)))
        total += int(hits)
    lines = ["  own  whole  function"]
    for frame, count in own.most_common(LINES):
        lines.append(f"{count / total:5.1%} {whole[frame] / total:6.1%}  {frame}")
    return "\n".join(lines) + "\n"


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS + 120).stdout


def _first_lines(text: str, count: int) -> str:
    return "\n".join([line for line in text.splitlines() if line.strip()][:count])
