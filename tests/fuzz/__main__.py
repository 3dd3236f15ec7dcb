"""Coverage-guided fuzzing of one parser with atheris (uv run --group fuzz):

    python -m tests.fuzz NAME [--runs 1000000] [--seconds 60] [--processes 2]

Names: those of `names.MODULES`. Ends with an exit code other than 0 at an input that breaks a rule, and writes it to
`.cache/fuzz/`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # in a group of its own

from tests.fuzz.names import LENGTH, LENGTHS, MODULES

FOUND = Path(".cache/fuzz")


def fuzz(name: str, *, runs: int, seconds: int, seed: int) -> None:
    """Does not return: the fuzzer ends the process."""
    # The parser's own modules alone: to follow what they import costs most of the time, and finds nothing in them.
    for module in MODULES[name]:
        importlib.import_module(module)
    for module in MODULES[name]:
        del sys.modules[module]
    with atheris.instrument_imports():
        for module in MODULES[name]:
            importlib.import_module(module)
    target = importlib.import_module("tests.fuzz.targets").TARGETS[name]
    directory = tempfile.mkdtemp()  # removed by the parent
    for number, sample in enumerate(target.samples):
        (Path(directory) / str(number)).write_bytes(sample)
    bounds = [f"-max_len={LENGTHS.get(name, LENGTH)}", "-rss_limit_mb=512", "-timeout=10"]
    options = [f"-runs={runs}", f"-max_total_time={seconds}", f"-seed={seed}", f"-artifact_prefix={FOUND}/"]
    atheris.Setup([sys.argv[0], *bounds, *options, "-print_final_stats=1", directory], target.run)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("name", choices=sorted(MODULES))
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)  # of one of the processes
    words = parser.parse_args()
    FOUND.mkdir(parents=True, exist_ok=True)
    if words.seed is not None:
        fuzz(words.name, runs=words.runs, seconds=words.seconds, seed=words.seed)
    each = [f"--runs={-(-words.runs // words.processes)}", f"--seconds={words.seconds}"]
    command = [sys.executable, "-m", "tests.fuzz", words.name, *each]
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "TMPDIR": directory}
        reports = [Path(directory) / f"{seed}.log" for seed in range(1, words.processes + 1)]
        running = []
        for seed, report in enumerate(reports, start=1):
            with report.open("wb") as log:
                told = [*command, f"--seed={seed}"]
                running.append(subprocess.Popen(told, env=environment, stdout=log, stderr=log))
        codes = [process.wait() for process in running]
        sys.exit(report_of(words.name, reports, codes))


def report_of(name: str, reports: list[Path], codes: list[int]) -> int:
    """Prints what was tried, and all that a process said which found something."""
    cases = 0
    for report, code in zip(reports, codes, strict=True):
        said = report.read_text(errors="replace")
        cases += sum(int(line.split()[1]) for line in said.splitlines() if "number_of_executed_units" in line)
        if code:
            print(said)
    cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    print(
        f"{name}: {cases:,} cases in {len(codes)} processes, {cpu_s:.0f} s of CPU, {cases / cpu_s:,.0f} a second of it"
    )
    return max(codes, key=abs)


if __name__ == "__main__":
    main()
