"""Random outside input: parsers return a usable value, or raise an error of quaymirror with a printable message."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inputs import inputs
from parsers import PARSERS, survive

# Found by fuzzing; the defects are fixed.
FOUND = [
    ("a challenge", b'Bearer realm="https://quay.example/v2/auth",service="x",scope="\x80repository:a:pull"'),
    ("a challenge", b'Bearer realm="https://\x00quay.example/v2/auth",service="quay.example"'),
    ("index.json", b'{"\\ud800": 2, "manifests": []}'),
    ("who holds a lock", b"[" * 4096),
    ("a page of repositories", b'{"repositories": [], "next_page": "gAAA\\ud800A"}'),
    ("Location of a redirect", b"//%0http:0"),
    ("another tool's configuration", b"quay.io: !!timestamp x"),
    ("another tool's configuration", b"quay.io: {images: {kolla/a: 2020-13-45}}"),
    ("a snapshot of a run", PARSERS["a snapshot of a run"].seeds[0].replace(b'"history"', b'"hjstory"')),
    ("a snapshot of a run", PARSERS["a snapshot of a run"].seeds[0].replace(b'"work":[0,0,0]', b'"work":[0,1e15,0]')),
    ("a receipt", b"[" * 5000),
    ("a page of Harbor", PARSERS["a page of Harbor"].seeds[0].replace(b'[{"name"', b'5, "x": [{"name"')),
    ("words of a person", b"https://h:" + b"x" * 20_000),
]


@pytest.mark.parametrize("name", PARSERS)
def test_valid_input_is_read(name: str) -> None:
    for seed in PARSERS[name].seeds:
        if name != "words of a person":
            PARSERS[name].read(seed)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_nothing_gets_out_but_errors_of_ours(name: str, data: st.DataObject) -> None:
    survive(PARSERS[name], data.draw(inputs(PARSERS[name])))


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_defects_found_by_fuzzing_stay_fixed(name: str, data: bytes) -> None:
    survive(PARSERS[name], data)


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("depth", [150, 980, 100_000])
def test_no_depth_is_too_deep(name: str, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}"), ('{"manifests":[', "]}"), ('{"repositories":[', "]}")):
        nested = opening * depth + "1" + closing * depth
        for text in (opening * depth, nested, f'{{"manifests": [{{"x": {nested}}}], "x": {nested}}}'):
            survive(PARSERS[name], text.encode())
