"""Every planted mistake, or those whose name contains a text; see `planting`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.seeded_bugs.bugs import BUGS
from tests.seeded_bugs.planting import Copy


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    unnoticed = []
    with tempfile.TemporaryDirectory(prefix="waypost-bugs-") as directory:
        copy = Copy(Path(directory))
        for bug in BUGS:
            if wanted not in bug.name:
                continue
            began = time.monotonic()
            is_noticed = copy.notices(bug)
            print(
                f"{'noticed' if is_noticed else 'UNNOTICED':10}{time.monotonic() - began:6.1f} s  {bug.name}",
                flush=True,
            )
            if not is_noticed:
                unnoticed.append(bug.name)
    print(f"{len(unnoticed)} unnoticed")
    sys.exit(bool(unnoticed))


if __name__ == "__main__":
    main()
