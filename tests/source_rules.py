"""Rules on our own source that no linter has: sizes, names that say nothing, and no floats where money is.

Each rule takes a file's path and text and returns its violations as lines for a person.
"""

from __future__ import annotations

import ast
from pathlib import Path

FILE_LINES_MAX = 499
FUNCTION_LINES_MAX = 69
EMPTY_WORDS = {"util", "utils", "helper", "helpers", "common", "manager", "misc"}
MONEY_CODE = (
    "src/waypost/kit/money.py",
    "src/waypost/ledger/",
    "src/waypost/metering/",
    "src/waypost/policy/price_document.py",
    "src/waypost/dispatch/extension.py",
    "src/waypost/dispatch/meter.py",
    "src/waypost/dispatch/tally.py",
    "src/waypost/gateway/books.py",
    "src/waypost/gateway/recount.py",
    "src/waypost/gateway/wallet",
    "src/waypost/storage/funding.py",
    "src/waypost/storage/general_ledger.py",
    "src/waypost/storage/idempotency.py",
    "src/waypost/storage/leases.py",
    "src/waypost/storage/orphans.py",
    "src/waypost/storage/provider_bills.py",
    "src/waypost/storage/ledger",
    "src/waypost/storage/settlement.py",
    "src/waypost/app/list_prices.py",
)


def oversized(path: str, text: str) -> list[str]:
    """Files of 500 lines or more, functions of 70 or more (decorators and docstring included)."""
    found = []
    lines = len(text.splitlines())
    if lines > FILE_LINES_MAX:
        found.append(f"{path}: {lines} lines; a file stays under 500")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            length = (node.end_lineno or first) - first + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"{path}:{first}: {node.name} has {length} lines; a function stays under 70")
    return found


def badly_named(path: str, _text: str) -> list[str]:
    """Modules and packages whose name says nothing: if it needs one of those, the thing has not been understood yet."""
    words = {word for part in Path(path).with_suffix("").parts for word in part.split("_")}
    return [f"{path}: '{word}' says nothing about what is in it" for word in sorted(words & EMPTY_WORDS)]


def undescribed(path: str, text: str) -> list[str]:
    """Modules without the sentence that says what they are for."""
    if text.strip() and ast.get_docstring(ast.parse(text)) is None:
        return [f"{path}: a module opens with what it is for"]
    return []


def floats_near_money(path: str, text: str) -> list[str]:
    """Float literals, `float(…)`, true division, and float annotations other than of times, in money code."""
    if not path.startswith(MONEY_CODE):
        return []
    return [f"{path}:{line}: {what}; money is whole nanos" for line, what in sorted(_floats(ast.parse(text)))]


def _floats(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=float() as number):
                found.append((node.lineno, f"the float {number}"))
            case ast.Call(func=ast.Name(id="float")):
                found.append((node.lineno, "a call of float()"))
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                found.append((node.lineno, "true division"))
            case (
                ast.arg(arg=name, annotation=annotation)
                | ast.AnnAssign(target=ast.Name(id=name), annotation=annotation)
            ):
                if _is_float(annotation) and not name.endswith(("_s", "_ms")):
                    found.append((node.lineno, f"{name} is a float"))
            case ast.FunctionDef(returns=annotation, name=name) if _is_float(annotation):
                found.append((node.lineno, f"{name} returns a float"))
    return found


def _is_float(annotation: ast.expr | None) -> bool:
    return annotation is not None and any(
        isinstance(node, ast.Name) and node.id == "float" for node in ast.walk(annotation)
    )
