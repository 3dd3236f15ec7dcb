"""Value structs as mypyc can compile them: what `bench.compiled` makes of the modules that hold them.

A `msgspec.Struct` is the fastest value there is for an interpreter, but compiled code reads its fields through Python's
attribute look-up, and mypyc drops the keywords of its class. So in the copy that is compiled, such a class becomes a
plain one with the same fields, defaults, equality and `__replace__`, whose fields compiled code reads from memory.
Nothing keeps its fields from being set there, as `frozen` does: mypy and the tests of the sources hold that
nobody does.
What msgspec itself decodes or encodes has to stay a struct.
"""

from __future__ import annotations

import ast

_KNOWN_KEYWORDS = {"frozen", "gc"}


def with_native_values(source: str) -> str:
    """The same module, its structs as plain classes. Raises ValueError for a struct that it cannot make one of."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.ClassDef) and [ast.unparse(base) for base in node.bases] == ["msgspec.Struct"]:
            lines[node.lineno - 1 : node.end_lineno] = [ast.unparse(_native(node))]
        elif isinstance(node, ast.ImportFrom) and node.module == "__future__":
            lines[node.lineno : node.lineno] = _IMPORTS
    return "\n".join(lines) + "\n"


_IMPORTS = (
    "import typing as _typing",
    "if _typing.TYPE_CHECKING:",  # mypyc reads the decorator, and nothing is left of it
    "    from mypy_extensions import mypyc_attr as _mypyc_attr",
)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _native(node: ast.ClassDef) -> ast.ClassDef:
    keywords = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
    if not keywords.keys() <= _KNOWN_KEYWORDS:
        raise ValueError(f"{node.name} is more than a value: {', '.join(sorted(keywords))}")
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    methods = [each for each in node.body if not isinstance(each, ast.AnnAssign) and not _is_text(each)]
    names = [ast.unparse(each.target) for each in fields]
    has_own = {each.name for each in methods if isinstance(each, ast.FunctionDef)}
    lines = [f"@_mypyc_attr(acyclic={keywords.get('gc') is False})", f"class {node.name}:"]
    lines += [
        f"    __match_args__: _typing.ClassVar[tuple[{', '.join(f'_typing.Literal[{name!r}]' for name in names)}]] = ("
    ]
    lines += [f"        {' '.join(f'{name!r},' for name in names)})"]
    lines += [f"    {name}: {ast.unparse(each.annotation)}" for name, each in zip(names, fields, strict=True)]
    lines += [f"    def __init__(self, {', '.join(_parameter(each) for each in fields)}) -> None:"]
    lines += [f"        self.{name} = {_initial(each)}" for name, each in zip(names, fields, strict=True)]
    if "__post_init__" in has_own:
        lines += ["        self.__post_init__()"]
    if "__eq__" not in has_own:
        same = " and ".join(f"self.{name} == other.{name}" for name in names)
        lines += ["    def __eq__(self, other: object) -> bool:"]
        lines += [f"        return isinstance(other, {node.name}) and ({same})"]
    if keywords.get("frozen") and "__hash__" not in has_own:
        lines += ["    def __hash__(self) -> int:"]
        lines += [f"        return hash(({' '.join(f'self.{name},' for name in names)}))"]
    lines += [f"    def __replace__(self, **changes: _typing.Any) -> {node.name}:"]
    lines += [f"        fields: dict[str, _typing.Any] = {{{', '.join(f'{name!r}: self.{name}' for name in names)}}}"]
    lines += ["        fields.update(changes)", f"        return {node.name}(**fields)"]
    native = ast.parse("\n".join(lines)).body[0]
    assert isinstance(native, ast.ClassDef)
    native.body += [_SetsFields().visit(each) for each in methods]
    return native


def _parameter(field: ast.AnnAssign) -> str:
    name, annotation = ast.unparse(field.target), ast.unparse(field.annotation)
    match field.value:
        case None:
            return f"{name}: {annotation}"
        case ast.Dict() | ast.List() | ast.Set():
            return f"{name}: {annotation} | None = None"
        case ast.Call():
            raise ValueError(f"the default of {name} is made by a call")
        case value:
            return f"{name}: {annotation} = {ast.unparse(value)}"


def _initial(field: ast.AnnAssign) -> str:
    """A default that can be changed is made anew for every value, as msgspec does."""
    name = ast.unparse(field.target)
    if isinstance(field.value, ast.Dict | ast.List | ast.Set):
        return f"{ast.unparse(field.value)} if {name} is None else {name}"
    return name


class _SetsFields(ast.NodeTransformer):
    """`force_setattr(self, "name", value)` as the assignment that it is."""

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        match node.value:
            case ast.Call(func=ast.Name(id="force_setattr"), args=[of, ast.Constant(value=str(name)), value]):
                return ast.parse(f"{ast.unparse(of)}.{name} = {ast.unparse(value)}").body[0]
        return node
