"""Coverage-guided fuzzing of one parser with atheris (uv run --group fuzz):

    python -m tests.fuzz NAME [--runs 1000000] [--seconds 60]

Names: those of `targets.TARGETS`. Ends with exit code 77 at an input that breaks a rule, and writes it to
`.cache/fuzz/`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # in a group of its own

with atheris.instrument_imports(include=["waypost"]):
    from tests.fuzz.targets import TARGETS


FOUND = Path(".cache/fuzz")


def main() -> None:
    FOUND.mkdir(parents=True, exist_ok=True)
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("name", choices=sorted(TARGETS))
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=60)
    words = parser.parse_args()
    target = TARGETS[words.name]
    with tempfile.TemporaryDirectory() as directory:
        for number, sample in enumerate(target.samples):
            (Path(directory) / str(number)).write_bytes(sample)
        options = [f"-runs={words.runs}", f"-max_total_time={words.seconds}", "-max_len=4096", "-rss_limit_mb=512"]
        atheris.Setup(
            [sys.argv[0], *options, f"-artifact_prefix={FOUND}/", "-timeout=10", "-print_final_stats=1", directory],
            target.run,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
