"""A real process writes its journal and is killed without warning."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.gateway.disk import Disk
from waypost.gateway.journal import Journal
from waypost.gateway.recovery import read_dir, recover
from waypost.ledger.record import Close, Open, Outcome

WRITER = """
import sys
from pathlib import Path
from tests.gateway.disk import attempt
from waypost.gateway.journal import Journal

journal = Journal.open_dir(Path(sys.argv[1]), segment_bytes=64 << 10, segments_max=10_000)
while True:
    one = attempt()
    journal.open(one.open)
    sys.stdout.write("o" + one.open.attempt_id.hex() + "\\n")
    sys.stdout.flush()
    journal.close(one.close)
    sys.stdout.write("c" + one.open.attempt_id.hex() + "\\n")
    sys.stdout.flush()
"""


def test_after_sigkill_everything_that_was_acted_upon_is_in_the_journal(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acted = [child.stdout.readline().strip() for _ in range(700)]
    child.send_signal(signal.SIGKILL)
    acted += child.stdout.read().split()
    child.stdout.close()
    child.wait()
    acted = [line for line in acted if len(line) == 33]  # the last may be cut by the kill

    records = list(read_dir(tmp_path))

    told = [("o" if isinstance(r, Open) else "c") + r.attempt_id.hex() for r in records if isinstance(r, Open | Close)]
    # What was told is a prefix of what was written: the kill may come between the write and the telling.
    assert told[: len(acted)] == acted
    assert len(told) <= len(acted) + 1
    journal = Journal.open_dir(tmp_path, segment_bytes=64 << 10, files=Disk())
    recovery = recover(journal, 0)
    assert recovery.damages == []
    crashed = [row for row in recovery.attempts if row.close.outcome is Outcome.CRASHED]
    assert len(crashed) == sum(isinstance(r, Open) for r in records) - sum(isinstance(r, Close) for r in records)
    journal.acknowledge(recovery.attempts)
    journal.maintain()
    journal.shut()
    assert list(tmp_path.glob("*.wal")) == []
