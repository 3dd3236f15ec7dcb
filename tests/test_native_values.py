"""What `./run compile` makes of value structs: classes that are made, compared and copied as the structs are."""

from __future__ import annotations

import gc
import importlib
import inspect
import pkgutil
import types
from typing import Any

import msgspec
import pytest
from bench.compiled import SOURCE, VALUES
from bench.native_values import with_native_values

import waypost
from waypost import compiled

pytestmark = pytest.mark.skipif(compiled.running.compiled > 0, reason="compares with the structs of the sources")

EXAMPLE = '''"""Values."""

from __future__ import annotations

import msgspec
from msgspec.structs import force_setattr


class Price(msgspec.Struct, frozen=True, gc=False):
    """What it costs."""

    input: int
    name: str = "a"
    """Its name."""
    dearest: int = 0  # follows

    def __post_init__(self) -> None:
        force_setattr(self, "dearest", self.input * 2)

    @property
    def double(self) -> int:
        return self.input * 2


class Kept(msgspec.Struct):
    index: int
    words: list[str] = []
'''


def run(source: str) -> types.ModuleType:
    """The module that this text is, as Python and not as mypyc reads it."""
    module = types.ModuleType("made")
    module.__dict__["_mypyc_attr"] = lambda **_: lambda made: made
    exec(compile(with_native_values(source), "made", "exec"), module.__dict__)
    return module


def test_a_value_is_made_and_compared_as_the_struct_is() -> None:
    made = run(EXAMPLE)
    price = made.Price(3, name="b")
    assert (price.input, price.name, price.dearest, price.double) == (3, "b", 6, 6)
    assert price == made.Price(3, "b")
    assert price != made.Price(4, "b")
    assert price != (3, "b", 6)
    assert hash(price) == hash(made.Price(3, "b"))
    assert made.Price.__match_args__ == ("input", "name", "dearest")


def test_a_copy_is_made_anew_with_what_follows_from_its_fields() -> None:
    price = run(EXAMPLE).Price(3, name="b")
    other = price.__replace__(input=5)
    assert (other.input, other.name, other.dearest) == (5, "b", 10)
    assert price.input == 3
    with pytest.raises(TypeError):
        price.__replace__(output=5)


def test_a_default_that_can_be_changed_is_every_values_own() -> None:
    made = run(EXAMPLE)
    made.Kept(0).words.append("a")
    assert made.Kept(0).words == []
    words = ["b"]
    assert made.Kept(0, words).words is words


@pytest.mark.parametrize("keywords", ["kw_only=True", "frozen=True, tag=True", 'rename="camel"', "omit_defaults=True"])
def test_what_is_more_than_a_value_is_refused(keywords: str) -> None:
    with pytest.raises(ValueError, match="Sent is more than a value"):
        with_native_values(f"import msgspec\nclass Sent(msgspec.Struct, {keywords}):\n    a: int\n")
    with pytest.raises(ValueError, match="made by a call"):
        with_native_values("import msgspec\nclass Sent(msgspec.Struct):\n    a: list[int] = msgspec.field(name='b')\n")


def value_structs() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in VALUES:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        for name, each in vars(module).items():
            if inspect.isclass(each) and issubclass(each, msgspec.Struct) and each.__module__ == module.__name__:
                found.append((path, name))
    return found


@pytest.mark.parametrize(("path", "name"), value_structs())
def test_every_value_takes_what_its_struct_takes(path: str, name: str) -> None:
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    made = run((SOURCE / path).read_text("utf-8"))
    struct, native = vars(module)[name], vars(made)[name]
    assert list(inspect.signature(native).parameters) == list(struct.__struct_fields__)
    assert native.__match_args__ == struct.__match_args__
    required = [each for each in inspect.signature(native).parameters.values() if each.default is each.empty]
    assert len(required) == len(struct.__struct_fields__) - len(struct.__struct_defaults__)
    own = {key for key, each in vars(struct).items() if isinstance(each, types.FunctionType | property)}
    assert own <= vars(native).keys()


def structs_within(kind: msgspec.inspect.Type, seen: set[type]) -> None:
    """The structs that something of this type is decoded as, into `seen`."""
    parts: list[msgspec.inspect.Type] = []
    match kind:
        case msgspec.inspect.StructType(cls=struct, fields=fields):
            if struct not in seen:
                seen.add(struct)
                parts = [field.type for field in fields]
        case msgspec.inspect.UnionType(types=types_):
            parts = list(types_)
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            parts = [key, value]
        case msgspec.inspect.TupleType(item_types=items):
            parts = list(items)
        case msgspec.inspect.CollectionType(item_type=item):
            parts = [item]
        case msgspec.inspect.CustomType(cls=struct):
            seen.add(struct)
    for each in parts:
        structs_within(each, seen)


def test_no_value_is_something_that_msgspec_decodes() -> None:
    for found in pkgutil.walk_packages(waypost.__path__, "waypost."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    decoded: set[type] = set()
    decoders: list[Any] = [
        each for each in gc.get_objects() if isinstance(each, msgspec.json.Decoder | msgspec.msgpack.Decoder)
    ]
    assert len(decoders) > 50
    for each in decoders:
        structs_within(msgspec.inspect.type_info(each.type), decoded)
    values = {f"{path.removesuffix('.py').replace('/', '.')}.{name}" for path, name in value_structs()}
    assert values & {f"{each.__module__}.{each.__qualname__}" for each in decoded} == set()
