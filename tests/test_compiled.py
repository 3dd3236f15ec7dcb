"""Compiled modules run only for the sources that they were made from; what may be compiled keeps to mypyc's limits."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from bench.compiled import MODULES, PACKAGE, SOURCE, sources_of

from waypost import compiled

SUFFIX = EXTENSION_SUFFIXES[0]
MODULE = "waypost.policy.routing"
# Whose ends wait for nothing.
ENDS_AT_ONCE = {"asyncio.timeout", "asyncio.timeout_at"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of three modules with a build of one of them, whose shared object is a loadable one of Python's own."""
    package = tmp_path / "waypost"
    (package / "policy").mkdir(parents=True)
    shutil.copy(PACKAGE / "compiled.py", package)
    (package / "__init__.py").write_text("from waypost import compiled as compiled\n")
    for name in ("policy/__init__.py", "policy/routing.py", "policy/other.py"):
        (package / name).write_text("")
    build(package)
    return package


def build(package: Path) -> None:
    folder = package / compiled.FOLDER
    folder.mkdir(exist_ok=True)
    sources = ["__init__.py", "compiled.py", "policy/__init__.py", "policy/routing.py"]
    modules = {MODULE: f"waypost/policy/routing{SUFFIX}", "0a__mypyc": f"0a__mypyc{SUFFIX}"}
    compiled.write_manifest(str(folder), str(package), sources=sources, modules=modules)


def say(package: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a process with this package runs, and where it would find the module."""
    code = f"import importlib.util as u, waypost.compiled as c; print(c.running); print(u.find_spec({MODULE!r}).origin)"
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(package.parent)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )


def test_compiled_modules_are_found_before_their_sources(package: Path) -> None:
    said = say(package)
    found = package / compiled.FOLDER / f"waypost/policy/routing{SUFFIX}"
    assert said.stdout == f"1 modules compiled\n{found}\n"
    assert said.stderr == ""


@pytest.mark.parametrize("source", ["policy/routing.py", "policy/__init__.py", "compiled.py"])
def test_a_changed_source_has_all_sources_run_and_is_told(source: str, package: Path) -> None:
    before = (package / source).stat()
    with (package / source).open("a") as file:
        file.write("# changed\n")
    os.utime(package / source, ns=(before.st_atime_ns, before.st_mtime_ns))  # what tells is the content
    said = say(package)
    assert said.stdout.splitlines()[1] == str(package / "policy/routing.py")
    assert f"not used, because {source} has changed since" in said.stderr
    assert "./run compile" in said.stderr


def test_a_source_that_is_gone_is_a_change(package: Path) -> None:
    (package / "policy/routing.py").unlink()
    running, paths = compiled.examine(str(package))
    assert (running.is_stale, running.compiled, paths) == (True, 0, {})


def test_a_source_that_no_compiled_module_imports_may_change(package: Path) -> None:
    (package / "policy/other.py").write_text("changed = True\n")
    assert compiled.examine(str(package))[0] == compiled.Modules(compiled=1)


def test_a_build_for_another_python_or_without_its_end_is_not_used(package: Path) -> None:
    manifest = package / compiled.FOLDER / compiled.MANIFEST
    manifest.write_text(manifest.read_text().replace(SUFFIX, ".cpython-39-other.so"))
    assert "another Python" in say(package).stderr
    manifest.unlink()
    assert "not finished" in say(package).stderr


def test_the_environment_has_the_sources_run(package: Path) -> None:
    said = say(package, WAYPOST_INTERPRETED="1")
    assert said.stdout == f"interpreted\n{package / 'policy/routing.py'}\n"
    assert said.stderr == ""


def test_a_build_answers_for_everything_that_its_modules_import() -> None:
    sources = sources_of(MODULES)
    assert {"__init__.py", "compiled.py", "gateway/wallet.py", "ledger/record.py", "kit/__init__.py"} <= {*sources}
    for source in sources:
        for node in ast.walk(ast.parse((PACKAGE / source).read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("waypost."):
                path = str(node.module).removeprefix("waypost.").replace(".", "/")
                assert {f"{path}.py", f"{path}/__init__.py"} & {*sources}, f"{source} imports {node.module}"


def waits_in_handlers(text: str) -> Iterator[int]:
    """Lines that wait while an exception is handled. mypyc's coroutines do not put it aside meanwhile, as Python's do:
    what runs next finds it as the context of its own exceptions, and it stays in memory with all that its traceback
    holds."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Try(handlers=handlers, finalbody=last) | ast.TryStar(handlers=handlers, finalbody=last):
                for each in (*handlers, *last):
                    yield from waits(each)
            case ast.AsyncWith(items=items):
                for item in items:
                    called = item.context_expr.func if isinstance(item.context_expr, ast.Call) else item.context_expr
                    if ast.unparse(called) not in ENDS_AT_ONCE:
                        yield node.lineno


def waits(node: ast.AST) -> Iterator[int]:
    if isinstance(node, ast.Await | ast.Yield | ast.YieldFrom | ast.AsyncFor | ast.AsyncWith):
        yield node.lineno
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from waits(child)


def compares_tuples_by_identity(text: str) -> Iterator[int]:
    """Lines that ask whether something `is` a tuple of the module: mypyc keeps tuples by their values, and makes a new
    one for each such question."""
    tree = ast.parse(text)
    tuples = set()
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Tuple() | ast.BinOp(left=ast.Tuple())):
                tuples.add(name)
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot()], comparators=[right]):
                if {each.id for each in (left, right) if isinstance(each, ast.Name)} & tuples:
                    yield node.lineno


def names_two_kinds_alike(text: str) -> Iterator[int]:
    """Lines that catch an exception by a name that another kind has in the same function: mypyc gives the name the type
    of the first, and catching the second raises TypeError."""
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            kinds: dict[str, str] = {}
            for node in ast.walk(function):
                match node:
                    case ast.ExceptHandler(type=ast.expr() as kind, name=str(name)):
                        if kinds.setdefault(name, ast.unparse(kind)) != ast.unparse(kind):
                            yield node.lineno


def faults_of(text: str) -> list[int]:
    return [*waits_in_handlers(text), *compares_tuples_by_identity(text), *names_two_kinds_alike(text)]


@pytest.mark.parametrize("module", MODULES)
def test_what_is_compiled_keeps_to_what_mypyc_does_as_python_does(module: str) -> None:
    assert faults_of((SOURCE / module).read_text("utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "async def f():\n    try: g()\n    except E: await h()",
        "async def f():\n    try: g()\n    finally: await h()",
        "async def f():\n    async with asyncio.TaskGroup(): await h()",
        "def f():\n    try: g()\n    except E: yield 1",
        "NONE = (0, 0)\ndef f(x): return x is not NONE",
        "NONE = (0,) * 6\ndef f(x): return NONE is x",
        "def f():\n    try: g()\n    except E as e: h(e)\n    except F as e: h(e)",
    ],
)
def test_the_rules_of_what_is_compiled_can_be_broken(text: str) -> None:
    assert faults_of(text) != []


def test_what_waits_outside_of_handlers_is_allowed() -> None:
    text = "async def f():\n    async with asyncio.timeout(1):\n        try: await g()\n        except E: h()"
    assert faults_of(text) == []
