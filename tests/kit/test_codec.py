from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.kit import codec
from waypost.kit.codec import has_more_values_than, is_deeper_than, repeated_key

documents = st.recursive(
    st.none() | st.integers() | st.text(alphabet='[]{}"\\aé', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[]{}"', max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def values(value: Any) -> int:
    """Objects, arrays and strings, names included."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(values, value.values()))
    return 1 + sum(map(values, value)) if isinstance(value, list) else int(isinstance(value, str))


@settings(database=None, deadline=None, max_examples=200)
@given(value=documents, values_max=st.integers(0, 9), indent=st.none() | st.just(1))
def test_values_are_those_of_the_parsed_document(value: Any, values_max: int, indent: int | None) -> None:
    document = json.dumps(value, indent=indent).encode()
    assert has_more_values_than(document, values_max, others_max=99) is (values(value) > values_max)


@pytest.mark.parametrize(("document", "is_more"), [(b"[1,2,3]", False), (b"[1,2,3,4]", True), (b'[",,,,",1,2]', False)])
def test_elements_of_any_kind_have_a_bound(document: bytes, is_more: bool) -> None:
    assert has_more_values_than(document, 9, others_max=2) is is_more
    assert has_more_values_than(document, 2, others_max=2) is is_more


@settings(database=None, deadline=None, max_examples=200)
@given(value=documents, values_max=st.integers(0, 9), block_bytes=st.integers(2, 20))
def test_where_a_document_is_cut_into_blocks_changes_no_count(value: Any, values_max: int, block_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "_BLOCK_BYTES", block_bytes)
        document = json.dumps(value).encode()
        assert has_more_values_than(document, values_max, others_max=99) is (values(value) > values_max)


@settings(database=None, deadline=None, max_examples=100)
@given(value=documents, depth_max=st.integers(0, 5), indent=st.none() | st.just(1))
def test_depth_is_that_of_the_parsed_document(value: Any, depth_max: int, indent: int | None) -> None:
    assert is_deeper_than(json.dumps(value, indent=indent).encode(), depth_max) is (depth(value) > depth_max)


def test_a_key_that_stands_twice_is_found_in_the_outermost_object_only() -> None:
    names = ("model", "n")

    assert repeated_key(b'{"model":1,"n":2}', names) is None
    assert repeated_key(b'{"model":1,"x":{"model":2,"n":1},"y":[{"n":3}],"n":2}', names) is None
    assert repeated_key(b'{"model":1,"x":{"a":1,"a":2}}', names) is None
    assert repeated_key(b'{"model":1,"n":2,"n":3}', names) == "n"
    assert repeated_key(b'{"n":1,"n":3,"model":2,"model":3}', names) == "model"


@pytest.mark.parametrize("spelling", [b"mod\\u0065l", b"\\u006dodel", b"\\u006D\\u006f\\u0064\\u0065\\u006c"])
def test_an_escaped_spelling_is_the_same_key(spelling: bytes) -> None:
    assert repeated_key(b'{"model":1,"%b":2}' % spelling, ("model",)) == "model"


def test_numbers_of_any_length_do_not_matter() -> None:
    assert repeated_key(b'{"n":1,"x":%b,"n":2}' % (b"9" * 6_000), ("n",)) == "n"
