"""`./run compile`: the hot modules of this checkout, compiled by mypyc beside their sources. An experiment.

Everything runs without it. What it saves, and which tests cannot run so, tells docs/performance.md. `./run compile
--clean` takes it back; compiled modules do not follow edits.

What stays interpreted: value structs, because mypyc drops the keywords of their classes (frozen, gc) and the types that
msgspec decodes by, so they live in modules of their own; and `kit.payload`, whose class refuses to be formatted.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
MODULES = tuple(
    f"waypost/{name}.py"
    for name in (
        *(f"dispatch/{each}" for each in ("attempt", "choice", "counting", "dispatcher", "execution", "gate")),
        *(f"dispatch/{each}" for each in ("health", "meter", "pace", "streams", "tally")),
        *(f"gateway/{each}" for each in ("admission", "allowance", "books", "edge", "journal", "offering", "pipeline")),
        *(f"gateway/{each}" for each in ("relay", "settler", "wallet")),
        *(f"kit/{each}" for each in ("codec", "crypto", "ids", "money")),
        *(f"ledger/{each}" for each in ("journal_format", "lease")),
        *(f"metering/{each}" for each in ("charge", "estimate")),
        *(f"policy/{each}" for each in ("bulkhead", "ceiling", "circuit", "retry_budget", "routing", "tally")),
        *(f"providers/{each}" for each in ("openai", "openai_stream")),
        *(f"telemetry/{each}" for each in ("metrics",)),
        *(f"tenancy/{each}" for each in ("keyring",)),
        *(f"transport/{each}" for each in ("client_connection", "exchange", "http1_client", "http1_request")),
        *(f"transport/{each}" for each in ("http1_response", "server_connection", "server_state")),
        *(f"wire/{each}" for each in ("openai_chat", "openai_chat_answer", "openai_chat_stream", "sse")),
    )
)
_SETUP = """
import sys
from setuptools import setup
from mypyc.build import mypycify
setup(
    name="waypost-compiled",
    ext_modules=mypycify(sys.argv.pop().split(","), opt_level="2", debug_level="0", multi_file=True),
)
"""


def compile_modules() -> list[Path]:
    """Build the modules beside their sources; the files that were made. Raises subprocess.CalledProcessError."""
    remove()
    with tempfile.TemporaryDirectory(prefix="waypost-compile-") as folder:
        script = Path(folder, "setup.py")
        script.write_text(_SETUP)
        command = [sys.executable, str(script), "-q", "build_ext", "--inplace", "--build-temp", folder, "-j", "2"]
        try:
            subprocess.run([*command, ",".join(MODULES)], cwd=SOURCE, check=True)
        finally:
            shutil.rmtree(SOURCE / "build", ignore_errors=True)
    return compiled()


def compiled() -> list[Path]:
    """What an earlier build has left: the modules, and the library that they share."""
    return sorted((*SOURCE.glob("*__mypyc.*.so"), *SOURCE.glob("waypost/**/*.so")))


def remove() -> None:
    """Back to the sources alone."""
    for path in compiled():
        path.unlink()


def main() -> int:
    if "--clean" in sys.argv[1:]:
        remove()
        print("The modules are interpreted again.")
    else:
        print(
            f"{len(compile_modules()) - 1} modules are compiled. They do not follow edits: see `./run compile --clean`."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
