"""Every planted mistake, some at once, each with a copy of the package and all with one PostgreSQL; see `planting`.

python -m tests.seeded_bugs                  every mistake; exit code 1 when one goes unnoticed
python -m tests.seeded_bugs "double refund"  those whose name contains the text
python -m tests.seeded_bugs --jobs 2         how many at once
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from psycopg import conninfo as conninfos

from tests.conftest import _FAST, _make_template
from tests.e2e.own_server import quick_place
from tests.seeded_bugs.bugs import BUGS
from tests.seeded_bugs.planting import Bug, Copy
from waypost.storage.embedded import EmbeddedPostgres

_NOTICED, _UNNOTICED, _UNTOLD = "noticed", "UNNOTICED", "UNTOLD"


def main() -> None:
    parser = argparse.ArgumentParser(description="Which planted mistakes are noticed.")
    parser.add_argument("text", nargs="?", default="", help="only those whose name contains it")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once")
    words = parser.parse_args()
    bugs = [bug for bug in BUGS if words.text in bug.name]
    with tempfile.TemporaryDirectory(prefix="waypost-bugs-", dir=quick_place()) as directory:
        postgres_dir = Path(directory) / "postgres"
        server = EmbeddedPostgres(postgres_dir, settings=_FAST)
        try:
            _make_template(conninfos.make_conninfo(server.start(), dbname="postgres"))
            copies: SimpleQueue[Copy] = SimpleQueue()
            for number in range(words.jobs):
                copy = Copy(Path(directory) / str(number), postgres_dir)
                copy.compile()
                copies.put(copy)
            is_proven = _run(bugs, copies, jobs=words.jobs)
        finally:
            server.stop()
    sys.exit(not is_proven)


def _run(bugs: list[Bug], copies: SimpleQueue[Copy], *, jobs: int) -> bool:
    """Prints what becomes of each; whether all were noticed."""
    counts = dict.fromkeys((_NOTICED, _UNNOTICED, _UNTOLD), 0)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            running = {pool.submit(_look, bug, copies): bug for bug in bugs}
            for number, future in enumerate(as_completed(running), 1):
                told, took_s, why = future.result()
                counts[told] += 1
                print(f"{number:3}/{len(bugs)} {told:10}{took_s:6.1f} s  {running[future].name}{why}", flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    print(", ".join(f"{count} {told.lower()}" for told, count in counts.items()))
    return counts[_NOTICED] == len(bugs) > 0


def _look(bug: Bug, copies: SimpleQueue[Copy]) -> tuple[str, float, str]:
    """What its tests told, after how many seconds; and why they told nothing."""
    copy = copies.get()
    began = time.monotonic()
    told, why = _UNTOLD, ""
    try:
        told = _NOTICED if copy.notices(bug) else _UNNOTICED
    except RuntimeError as error:
        why = f": {error}"
    finally:
        copies.put(copy)
    return told, time.monotonic() - began, why


if __name__ == "__main__":
    main()
