"""`waypost up` with children and a catalogue of the tests' own: DATA_DIR CONNINFO PORT CHILD [CHILD'S ARGUMENTS].
TEST_WORKERS says how many children."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from waypost.supervisor.up import UpOptions, UpRefused, run_up


def main() -> int:
    data_dir, conninfo, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    config = data_dir.parent / "waypost.toml"

    def apply_catalogue(given: str) -> list[str]:
        assert given == conninfo
        text = config.read_text()
        if text.startswith("bad"):
            return [f"{text}: refused"]
        (data_dir.parent / "applied").write_text(text)
        return []

    options = UpOptions(
        data_dir=data_dir,
        database=None,
        conninfo=conninfo,
        port=port,
        metrics_port=0,
        workers=int(os.environ.get("TEST_WORKERS", "1")),
        drain_s=lambda: 5.0,
        config_path=config,
        gateway_command=(sys.executable, *sys.argv[4:]),
    )
    try:
        return run_up(options, apply_catalogue, on_ready=lambda d: print(d.url, d.metrics_url, flush=True))
    except UpRefused as refusal:
        print(refusal, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
