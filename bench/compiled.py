"""`./run compile`: the hot modules of this checkout, compiled by mypyc into a folder of their own (`waypost.compiled`).

Everything runs without them. `./run compile --undo` takes them away. What they save, and what is tested on them, tells
docs/operating/compile-the-hot-modules.md.

What stays interpreted: whatever waits while an exception is handled (mypyc does not put the exception aside meanwhile;
`tests/test_compiled.py` holds it); structs that msgspec decodes or encodes, because mypyc drops the keywords of their
classes and the types that it decodes by, so they live in modules of their own; and `kit.payload`, whose class refuses
to be formatted.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bench.native_values import with_native_values
from waypost.compiled import FOLDER, write_manifest

SOURCE = Path(__file__).resolve().parent.parent / "src"
PACKAGE = SOURCE / "waypost"
_CODE = tuple(
    f"waypost/{name}.py"
    for name in (
        *(f"dispatch/{each}" for each in ("attempt", "choice", "counting", "dispatcher", "execution", "fleet", "gate")),
        *(f"dispatch/{each}" for each in ("health", "meter", "pace", "streams", "tally")),
        *(f"gateway/{each}" for each in ("admission", "allowance", "books", "edge", "journal", "offering", "pipeline")),
        *(f"gateway/{each}" for each in ("callers", "heads", "idempotency", "limits", "relay", "settler", "wallet")),
        *(f"kit/{each}" for each in ("codec", "crypto", "ids", "money")),
        *(f"ledger/{each}" for each in ("journal_format", "lease")),
        *(f"metering/{each}" for each in ("charge", "estimate", "usage")),
        *(f"policy/{each}" for each in ("bulkhead", "ceiling", "circuit", "retry_budget", "routing", "tally")),
        *(f"providers/{each}" for each in ("openai", "openai_stream", "withheld")),
        *(f"telemetry/{each}" for each in ("metrics",)),
        *(f"tenancy/{each}" for each in ("keyring",)),
        *(f"transport/{each}" for each in ("client_connection", "exchange", "http1_client", "http1_request")),
        *(f"transport/{each}" for each in ("http1_response", "outbox", "server_connection")),
        *(f"transport/{each}" for each in ("server_state",)),
        *(f"wire/{each}" for each in ("openai_chat", "openai_chat_answer", "openai_chat_stream", "sse")),
    )
)
VALUES = tuple(
    f"waypost/{name}.py"
    for name in (
        *(f"metering/{each}" for each in ("bill", "ceiling", "price")),
        *(f"ledger/{each}" for each in ("record",)),
        *(f"dispatch/{each}" for each in ("ports",)),
        *(f"policy/{each}" for each in ("rate_limit", "snapshot")),
        *(f"tenancy/{each}" for each in ("api_key", "budget")),
        *(f"gateway/{each}" for each in ("arrival", "hold")),
        *(f"providers/{each}" for each in ("kind",)),
        *(f"transport/{each}" for each in ("origin",)),
        *(f"wire/{each}" for each in ("canonical", "identity", "preferences", "request")),
    )
)
"""Modules whose structs become plain classes: see `bench.native_values`."""
MODULES = _CODE + VALUES
_SETUP = """
import sys
from setuptools import setup
from mypyc.build import mypycify
setup(
    name="waypost-compiled",
    ext_modules=mypycify(sys.argv.pop().split(","), opt_level="2", debug_level="0", multi_file=True),
)
"""


def compile_modules() -> int:
    """Build the modules; how many. The build of before stays until the new one is whole.

    Raises subprocess.CalledProcessError."""
    sources = sources_of(MODULES)
    with tempfile.TemporaryDirectory(prefix=".compile-", dir=SOURCE) as folder:
        copy, made = Path(folder, "source"), Path(folder, "made")
        # What is compiled and hashed is a copy, so that an edit meanwhile makes the build stale.
        shutil.copytree(PACKAGE, copy / "waypost", ignore=shutil.ignore_patterns("__pycache__", FOLDER))
        native = Path(folder, "native")
        shutil.copytree(copy, native)
        for module in VALUES:
            native.joinpath(module).write_text(with_native_values(copy.joinpath(module).read_text("utf-8")), "utf-8")
        script = Path(folder, "setup.py")
        script.write_text(_SETUP)
        command = [sys.executable, str(script), "-q", "build_ext", "--build-lib", str(made), "--build-temp", folder]
        subprocess.run([*command, "-j", "2", ",".join(MODULES)], cwd=native, check=True)
        files = sorted(path.relative_to(made).as_posix() for path in made.rglob("*.so"))
        modules = {path.split(".")[0].replace("/", "."): path for path in files}
        write_manifest(str(made), str(copy / "waypost"), sources=sources, modules=modules)
        remove()
        made.rename(PACKAGE / FOLDER)
    return len(MODULES)


def sources_of(modules: Iterable[str]) -> list[str]:
    """These modules and all of ours that they import, for types alone too: paths from the package's folder."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        path = waiting.pop()
        if path in found or not (SOURCE / path).is_file():
            continue
        found.add(path)
        for node in ast.walk(ast.parse((SOURCE / path).read_text("utf-8"))):
            match node:
                case ast.Import(names=names):
                    imported = [name.name for name in names]
                case ast.ImportFrom(module=str(module), names=names):
                    imported = [module, *(f"{module}.{name.name}" for name in names)]
                case _:
                    continue
            for name in imported:
                parts = name.split(".")
                waiting += ["/".join(parts) + ".py"]
                waiting += ["/".join(parts[:length]) + "/__init__.py" for length in range(1, len(parts) + 1)]
    return sorted(path.removeprefix("waypost/") for path in found if path.startswith("waypost/"))


def remove() -> None:
    """Back to the sources alone."""
    shutil.rmtree(PACKAGE / FOLDER, ignore_errors=True)


def main() -> int:
    if sys.argv[1:] == ["--undo"]:
        remove()
        print("The sources run again.")
    elif sys.argv[1:]:
        print("usage: ./run compile [--undo]", file=sys.stderr)
        return 2
    else:
        count = compile_modules()
        print(f"{count} modules are compiled. They run until a source changes, or until `./run compile --undo`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
