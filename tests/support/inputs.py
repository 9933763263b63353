"""Inputs for the parsers in `parsers`: noise, JSON of all kinds, and nearly valid documents."""

from __future__ import annotations

import json
from collections.abc import Iterator

from hypothesis import strategies as st
from parsers import HEX, Parser


def inputs(parser: Parser) -> st.SearchStrategy[bytes]:
    """Return a strategy of bytes for `parser`."""
    return st.binary(max_size=60) | _documents(parser) | _altered(parser)


def _keys(value: object) -> Iterator[str]:
    match value:
        case dict():
            yield from value
            yield from (key for inner in value.values() for key in _keys(inner))
        case list():
            yield from (key for inner in value for key in _keys(inner))


def _known_keys(seeds: tuple[bytes, ...]) -> list[str]:
    found: set[str] = set()
    for seed in seeds:
        try:
            found.update(_keys(json.loads(seed)))
        except ValueError:
            continue

    return sorted(found)


def _documents(parser: Parser) -> st.SearchStrategy[bytes]:
    keys = _known_keys(parser.seeds)
    texts = st.text(max_size=8) | st.text(st.characters(), max_size=3)  # lone surrogates included
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.just(HEX)
    names = st.sampled_from(keys) | texts if keys else texts
    values = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5), max_leaves=12
    )
    return values.map(lambda value: json.dumps(value).encode())


def _altered(parser: Parser) -> st.SearchStrategy[bytes]:
    pieces = st.binary(max_size=3) | st.sampled_from([*parser.words, b'"', b"{", b"}", b",", b":", b"0", b"\n", b" "])
    cuts = st.tuples(st.integers(0, 2000), st.integers(0, 12), pieces)

    def alter(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for place, length, piece in changes:
            at = place % (len(seed) + 1)
            seed = seed[:at] + piece + seed[at + length :]

        return seed

    return st.builds(alter, st.sampled_from(parser.seeds), st.lists(cuts, min_size=1, max_size=4))
