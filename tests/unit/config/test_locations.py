"""Locations of keys agree with the values that tomllib reads, for any document."""

from __future__ import annotations

import tomllib
from typing import Any

import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.config.locations import KeyPath, Place, find_places

DOCUMENT = '''\
# a comment = [not a table]
top = 1
"quoted key".sub = 'x # no comment'
[a.b]  # = ]
long = """
[not] = a table
"""
array = [ 1, # one
  "two]", ["three"] , { x = 1, y.z = [4] } ]
date = 2025-01-01T00:00:00Z
[[list]]
x = {}
[[list]]
x = \'\'\'it's # ''\'\'\'
[list.sub]
y = -inf
'''

NAMES = st.text(st.sampled_from("ab-_.é \"'#=]"), min_size=1, max_size=4)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.integers(-5, 5) | st.booleans() | st.text(st.sampled_from("a\"'\\#[]{}=,\n"), max_size=6),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(NAMES, values, max_size=3),
    max_leaves=8,
)


def test_keys_tables_and_items_are_where_they_are_written() -> None:
    places = find_places(DOCUMENT)

    assert places["top",] == Place(2, 1)
    assert places["quoted key", "sub"] == Place(3, 14)
    assert places["a", "b"] == Place(4, 4)
    assert places["a", "b", "long"] == Place(5, 1)
    assert places["a", "b", "array", 1] == Place(9, 3)
    assert places["a", "b", "array", 2, 0] == Place(9, 12)
    assert places["a", "b", "array", 3, "y", "z", 0] == Place(9, 39)
    assert places["list", 0, "x"] == Place(12, 1)
    assert places["list", 1, "x"] == Place(14, 1)
    assert places["list", 1, "sub", "y"] == Place(16, 1)


def paths(value: object, path: KeyPath = ()) -> set[KeyPath]:
    if isinstance(value, dict):
        return {path} | {found for key, item in value.items() for found in paths(item, (*path, key))}

    if isinstance(value, list):
        return {path} | {found for number, item in enumerate(value) for found in paths(item, (*path, number))}

    return {path}


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_key_of_any_document_has_a_place(document: dict[str, Any]) -> None:
    text = tomlkit.dumps(document)
    read = tomllib.loads(text)
    places = find_places(text)
    expected = paths(read) - {()}

    assert {path for path in expected if not _is_table_of_array(path, read)} <= set(places)


def _is_table_of_array(path: KeyPath, document: Any) -> bool:
    """Return True if the item is a table from a [[header]]: it has no location, but its keys have."""
    value = document
    for part in path:
        value = value[part]

    return isinstance(path[-1], int) and isinstance(value, dict)
