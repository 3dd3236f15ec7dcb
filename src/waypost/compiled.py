"""Which code this process runs: the sources, or for the hot modules what `./run compile` has made of them.

Compiled modules lie in a folder of their own, where Python does not look by itself. They run only while every source
that they were made from, or that those import, is what it was by its hash: old code must not go on handling money after
an upgrade, and the value of a constant is compiled into whoever imports it. Otherwise all sources run, and every
process says so.
"""

# ruff: noqa: PLC0415  nothing is imported for a build that is not there

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from typing import Any, NamedTuple

FOLDER = "_compiled"
"""Within the package: shared objects by the paths of their modules, and the manifest."""
MANIFEST = "manifest.json"
SWITCH = "WAYPOST_INTERPRETED"
"""The variable of the environment that has the sources run, whatever is built."""


class Modules(NamedTuple):
    """What runs. `compiled` counts modules; `is_stale` says that there is a build which does not fit, and `reason` why:
    the sources run."""

    compiled: int = 0
    is_stale: bool = False
    reason: str = ""

    def __str__(self) -> str:
        if self.is_stale:
            return f"interpreted: the compiled modules are not used, because {self.reason}"
        return f"{self.compiled} modules compiled" if self.compiled else "interpreted"


class Finder:
    """Finds compiled modules by their names, before Python finds the sources."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = paths

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002  the protocol's
        found = self._paths.get(name)
        if found is None:
            return None
        return spec_from_file_location(name, found, loader=ExtensionFileLoader(name, found))


def hash_of(path: str) -> str:
    """The SHA-256 of a file, in hex; "" of one that is not there."""
    from hashlib import sha256

    try:
        with open(path, "rb", buffering=0) as file:
            return sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return ""


def write_manifest(folder: str, package: str, *, sources: Iterable[str], modules: Mapping[str, str]) -> None:
    """Tell in `folder` what a build is made of and for: `sources` are files below the package's folder, `modules` names
    of modules and their files below `folder`."""
    from json import dumps

    manifest = {
        "suffix": EXTENSION_SUFFIXES[0],
        "sources": {source: hash_of(os.path.join(package, source)) for source in sources},
        "modules": dict(modules),
    }
    with open(os.path.join(folder, MANIFEST), "w", encoding="utf-8") as file:
        file.write(dumps(manifest, indent=1))


def examine(package: str) -> tuple[Modules, dict[str, str]]:
    """What is to run of the package in this folder, and the paths of its compiled modules by their names.

    Of a build that does not fit, no module at all: compiled modules know each other's insides. Raises ValueError or
    KeyError if the manifest is not ours."""
    folder = os.path.join(package, FOLDER)
    if not os.path.exists(folder):
        return Modules(), {}
    from json import load

    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            manifest = load(file)
    except FileNotFoundError:
        return Modules(is_stale=True, reason="their build was not finished"), {}
    if manifest["suffix"] != EXTENSION_SUFFIXES[0]:
        return Modules(is_stale=True, reason="they are for another Python"), {}
    changed = [name for name, known in manifest["sources"].items() if hash_of(os.path.join(package, name)) != known]
    if changed:
        more = f" and {len(changed) - 1} more have" if len(changed) > 1 else " has"
        return Modules(is_stale=True, reason=f"{changed[0]}{more} changed since"), {}
    paths = {name: os.path.join(folder, file) for name, file in manifest["modules"].items()}
    return Modules(compiled=sum(name.startswith("waypost.") for name in paths)), paths


def adopt(package: str) -> Modules:
    """Have the compiled modules run that fit, or say on standard error that they do not; before any is imported."""
    if os.environ.get(SWITCH, "") not in {"", "0"}:
        return Modules()
    modules, paths = examine(package)
    if modules.is_stale:
        advice = "`./run compile` makes them anew, `./run compile --undo` takes them away"
        print(f"waypost: {modules}; {advice}", file=sys.stderr, flush=True)  # noqa: T201  nothing else is there so early
    if paths:
        sys.meta_path.insert(0, Finder(paths))
    return modules


running = adopt(os.path.dirname(__file__))
"""What this process runs."""
