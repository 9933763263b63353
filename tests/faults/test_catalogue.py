"""The catalogue of hostile cases: each has a test that names it, in its docstring or in what it is run with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent

# Discovery, authorization, redirects, manifests, blobs, layers in filters, names, transport, limits, targets, the disk,
# crashes, concurrency, clocks, state, and what changes at the source. What else a number stood for once is gone.
CATALOGUE = {
    "D": (1, 2, 3, 4, 6, 7, 9, 10, 12, 14, 17, 19, 20),
    "A": (1, 2, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 16, 17),
    "R": (1, 2, 3, 4, 5, 6, 7, 8),
    "M": (1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 16, 17, 18, 19, 21, 22),
    "B": (1, 2, 3, 7, 8, 9, 10, 11, 12, 14, 15, 17, 20, 21),
    "F": (2, 5, 6, 10, 11, 12, 14, 15, 16, 17, 18),
    "N": (1, 5, 7),
    "T": (2, 3, 4, 6, 7, 8, 9, 10, 11),
    "L": (1, 2, 3, 4, 5, 7, 8),
    "P": (1, 5, 7, 8, 11, 13, 14),
    "K": (1, 2, 3, 4, 5, 6, 7),
    "C": (1, 2, 3, 5, 6, 7),
    "X": (1,),
    "S": (1, 2, 3, 4, 5, 6, 7, 8),
    "U": (1, 2),
}


@pytest.fixture(scope="module")
def named() -> set[str]:
    """Return every case that a text in a test names."""
    texts = [path.read_text() for path in TESTS.rglob("test_*.py") if path.name != Path(__file__).name]
    return {case for text in texts for case in re.findall(r"(?<=[\"' ])[A-Z][0-9]{1,2}(?=[ ,.:(\"])", text)}


@pytest.mark.parametrize("case", [f"{family}{number}" for family, numbers in CATALOGUE.items() for number in numbers])
def test_every_case_has_a_test_that_names_it(case: str, named: set[str]) -> None:
    assert case in named
