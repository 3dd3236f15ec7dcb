"""One process of an `up`, as the supervisor starts it: `python -m waypost.app.part gateway|control|vault [OPTIONS]`.

It does what the command of that name does. That command's library for reading options takes as long to be ready as a
third of everything else, which `up` would pay three times, and again whenever a process is replaced.
"""

# ruff: noqa: PLC0415  each part imports what is its own

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from waypost.app.settings import Settings, read_settings


def command(part: str, settings: Settings, *, socket: Path | None = None) -> tuple[str, ...]:
    """The words that start a part. The database's URL is not among them: a command line is readable by every user of
    the machine, so it travels in the environment."""
    words = [sys.executable, "-m", "waypost.app.part", part, "--data-dir", str(settings.data_dir)]
    if settings.config_path is not None:
        words += ["--config", str(settings.config_path)]
    if socket is not None:
        words += ["--socket", str(socket)]
    return tuple(words)


def _serve(part: str, settings: Settings, socket: Path) -> int:
    if part == "gateway":
        from waypost.app.gateway import serve_gateway

        return serve_gateway(settings, host="127.0.0.1", port=0)  # it inherits where it listens
    if part == "control":
        from waypost.app.control import serve_control

        return serve_control(settings, socket)
    from waypost.app.vault import serve_vault

    return serve_vault(settings, socket)


def main() -> int:
    """Run the part until it is told to stop; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m waypost.app.part")
    parser.add_argument("part", choices=("gateway", "control", "vault"))
    for name in ("--data-dir", "--config", "--socket"):
        parser.add_argument(name, type=Path)
    words = parser.parse_args()
    try:
        settings = read_settings(environment=os.environ, data_dir=words.data_dir, config_path=words.config)
        return _serve(words.part, settings, words.socket)
    except Exception as error:  # noqa: BLE001  the process edge: whatever it is, a person reads one sentence
        from waypost.app.failure import sentences

        for sentence in sentences(error):
            sys.stderr.write(f"waypost: {sentence}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
